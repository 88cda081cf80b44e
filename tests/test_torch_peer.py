"""The PyTorch U-Net of the benchmarks is the same function as ours; skipped without PyTorch.

Fault looked for throughout: a race between programs that do different work.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

torch = pytest.importorskip("torch", reason="PyTorch, needed by benchmarks only, is not installed")

from benchmarks import torch_unet  # noqa: E402
from benchmarks.programs import our_training_step, synthetic_batch  # noqa: E402
from lungseg_jax.losses import segmentation_loss  # noqa: E402
from lungseg_jax.models.unet import UNet  # noqa: E402
from lungseg_jax.optim import make_optimizer  # noqa: E402
from lungseg_jax.state import split_model  # noqa: E402
from tests.small import small_config  # noqa: E402

# Threads of PyTorch and XLA, and of other tests, would wait for each other.
torch.set_num_threads(1)

WIDTH, DEPTH, SIZE, BATCH = 8, 2, 32, 2

# Of the difference's norm to the norm; sums of float32 in two orders.
TOLERANCE = 1e-4


def flat(state) -> dict:
    pure = state if isinstance(state, dict) else nnx.to_pure_dict(state)
    return {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.State(pure))}


def make_pair(block_size):
    """Our model, its scales, biases and statistics off one and zero, and PyTorch's of the same."""
    # A seed by which no activation lies within rounding of ReLU's edge: in images so small, one
    # that falls on the other side is a hundredth of a gradient.
    ours = UNet(width=WIDTH, depth=DEPTH, block_size=block_size, rngs=nnx.Rngs(3))
    rng = np.random.default_rng(1)
    state = nnx.state(ours)
    for _, variable in nnx.to_flat_state(state):
        if variable.ndim == 1:
            variable[...] += rng.uniform(0, 0.3, variable.shape)
    nnx.update(ours, state)
    theirs = torch_unet.UNet(WIDTH, DEPTH, block_size)
    load(theirs, torch_unet.torch_variables(flat(state)))
    return ours, theirs.to(memory_format=torch.channels_last)


def load(model, variables):
    """Every variable is set: only the counts of batches, which nothing reads, are PyTorch's own."""
    missing, unexpected = model.load_state_dict(variables, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def to_torch(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def assert_close(ours, theirs, name):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape, name
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(ours)
    assert error < TOLERANCE, f"{name}: relative difference {error:.1e}"


@pytest.mark.parametrize("block_size", [1, 2])
def test_same_outputs_loss_gradients_and_statistics(block_size):
    """Fault: weights, layouts, statistics or the loss of the two differ in training mode."""
    ours, theirs = make_pair(block_size)
    image, mask = synthetic_batch(BATCH, SIZE)
    graph, parameters, batch_stats = split_model(ours)

    @jax.jit
    def evaluate(parameters, image, mask):
        def loss_of(parameters):
            model = nnx.merge(graph, parameters, batch_stats, copy=True)
            logits = model(image, train=True)
            return segmentation_loss(logits, mask), (logits, split_model(model)[2])

        return jax.value_and_grad(loss_of, has_aux=True)(parameters)

    (loss, (logits, new_stats)), gradients = evaluate(parameters, image, mask)
    their_logits = theirs(to_torch(image))
    their_loss = torch_unet.segmentation_loss(their_logits, to_torch(mask))
    their_loss.backward()

    assert_close(logits, their_logits.permute(0, 2, 3, 1), "logits")
    assert_close(loss, their_loss, "loss")
    expected = torch_unet.torch_variables(flat(gradients))
    theirs_by_name = dict(theirs.named_parameters())
    assert expected.keys() == theirs_by_name.keys()
    for name, gradient in expected.items():
        assert_close(gradient, theirs_by_name[name].grad, f"gradient of {name}")
    buffers = dict(theirs.named_buffers())
    before = torch_unet.torch_variables(flat(batch_stats))
    for name, value in torch_unet.torch_variables(flat(new_stats)).items():
        expected_value = value
        if name.endswith("running_var"):
            # Of n positions Flax takes the variance over n, PyTorch over n - 1.
            level = int(name.split(".")[1])
            n = BATCH * (SIZE // block_size) ** 2 / 4**level
            expected_value = 0.9 * before[name] + (value - 0.9 * before[name]) * n / (n - 1)
        assert_close(expected_value, buffers[name], name)


def test_both_forms_of_the_head_are_one_function(monkeypatch):
    """Fault: the form that is compiled, and timed, is another function than the one compared."""
    _, theirs = make_pair(1)
    image = to_torch(synthetic_batch(BATCH, SIZE)[0])
    as_convolution = theirs.eval()(image)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(theirs(image), as_convolution)


@pytest.mark.parametrize("mode", ["eager", "freeze"])
def test_same_inference_with_folded_normalisation(mode):
    """Fault: PyTorch's fast inference is of another function."""
    ours, theirs = make_pair(1)
    image, _ = synthetic_batch(BATCH, SIZE)
    expected = jax.nn.sigmoid(nnx.jit(lambda model, x: model(x, train=False))(ours, image))
    probabilities = torch_unet.make_inference(theirs, torch.float32, mode)(to_torch(image))
    assert_close(expected, probabilities.permute(0, 2, 3, 1), "probabilities")


def test_same_update():
    """Fault: clipping, decay or moments of the two optimizers differ."""
    config = small_config(
        num_steps=10**9, optimizer__warmup_steps=0, optimizer__weight_decay=0.1,
        optimizer__clip_norm=0.5,
    )  # fmt: skip
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (4,)}
    ours = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    model = torch.nn.ParameterDict(
        {name: torch.nn.Parameter(torch.tensor(np.asarray(x))) for name, x in ours.items()}
    )
    theirs = torch_unet.make_optimizer(
        model, config.optimizer.learning_rate, config.optimizer.weight_decay
    )
    state = optimizer.init(ours)
    # The first gradients are shorter than the limit, the others longer.
    for scale in (0.01, 1.0, 10.0):
        gradients = {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}
        gradients = {name: x.astype(np.float32) for name, x in gradients.items()}
        updates, state = optimizer.update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, parameter in model.items():
            parameter.grad = torch.from_numpy(gradients[name])
        torch_unet.update(theirs, list(model.values()), config.optimizer.clip_norm)
    for name, x in ours.items():
        np.testing.assert_allclose(x, model[name].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_both_programs_learn():
    """Fault: a program that is fast because it leaves out the update."""
    config = small_config(optimizer__warmup_steps=0)
    image, mask = synthetic_batch(BATCH, SIZE)
    state, step = our_training_step(config)
    step = jax.jit(step)
    our_losses = []
    for _ in range(8):
        state, loss = step(state, image, mask)
        our_losses.append(float(loss))
    torch.manual_seed(0)
    model = torch_unet.UNet(config.model.width, config.model.depth)
    optimizer = torch_unet.make_optimizer(model, config.optimizer.learning_rate, 0.0)
    step = torch_unet.make_training_step(model, optimizer, 1.0, torch.float32, "eager")
    their_losses = [step(to_torch(image), to_torch(mask)).item() for _ in range(8)]
    for losses in (our_losses, their_losses):
        assert losses[-1] < 0.97 * losses[0]
