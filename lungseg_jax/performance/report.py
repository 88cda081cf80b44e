"""A benchmark's report to a person: two tables, and one line that says what limits the run."""

from typing import Any

from lungseg_jax import terminal

# Shares of the step or of the end-to-end time above which a cause is named as the limit.
INPUT_STALL = 0.02
COMMUNICATION = 0.1
CALL = 0.25

# Steps in a row take less time than single ones; above this many times as long, something else ran.
DISTURBED = 1.2

# How many times its floor a step may take for the roofline to explain it.
NEAR_THE_FLOOR = 4.0

STAGE_NAMES = {
    "call": "call that does nothing",
    "augment": "augment",
    "forward_and_loss": "forward and loss",
    "backward": "backward",
    "update": "update",
    "all_reduce": "all-reduce",
}


def benchmark_report(result: dict[str, Any]) -> str:
    """Returns, as text, what `lungseg_jax.benchmark.benchmark` found."""
    lines = [
        "",
        terminal.table(_headline(result), _time_rows(result)),
        "",
        terminal.table(["the step and its machine", "", ""], _machine_rows(result)),
        "",
        f"Limit: {limit(result)}",
    ]
    if result["train_step"]["mfu_measured"] > 1:
        lines.append(
            "Caution: the step computes faster than the matrix product did, so other work slowed "
            "one of the two. Shares of peaks are wrong, and times may be; measure again."
        )
    step, in_a_row = result["train_step"]["median_ms"], result["train_step"]["pipelined"]["mean_ms"]
    if in_a_row > DISTURBED * step:
        lines.append(
            f"Caution: steps in a row took {in_a_row / step:.1f} times as long as single ones, so "
            "other work slowed them; measure again."
        )
    return "\n".join(lines)


def limit(result: dict[str, Any]) -> str:
    """Returns what limits the run: input, communication, host, memory bandwidth or computation."""
    stall, error = (result["end_to_end"][key] for key in ("input_stall", "input_stall_error"))
    stages, roofline = result["stages"], result["roofline"]
    whole = stages["whole"]["median_ms"]
    shares = {name: stages[name]["median_ms"] / whole for name in STAGE_NAMES if stages[name]}
    communication = shares.pop("all_reduce", 0.0)
    if communication and stages["all_reduce"]["p5_ms"] <= 0:
        communication = 0.0
    # A difference that may be 0 is no stage's time.
    told = [name for name in shares if stages[name]["p5_ms"] > 0]
    dearest = max(told, key=lambda name: shares[name], default=None)
    # A smaller stall cannot be distinguished from the machine's own disturbances.
    if stall - 2 * error > INPUT_STALL:
        return f"input; steps wait for it {stall:.1%} of the time"
    if communication > COMMUNICATION:
        return f"communication; {communication:.0%} of the step does not occur on a single device"
    # In a row, steps that are limited by the device hide the call.
    in_a_row = result["train_step"]["pipelined"]["mean_ms"]
    if shares["call"] > CALL and in_a_row > (1 - shares["call"] / 2) * whole:
        return f"host; a call that does nothing takes {shares['call']:.0%} of the step"
    where = (
        f"; longest stage: {STAGE_NAMES[dearest]}, {shares[dearest]:.0%} of the step"
        if dearest
        else "; stages cannot be told apart"
    )
    if roofline is None:
        return "unknown, since there is no roofline with accumulation_steps above 1" + where
    name = "memory bandwidth" if roofline["bound"] == "memory" else "computation"
    if roofline["share_of_attainable"] * NEAR_THE_FLOOR < 1:
        name = f"none of these; by the roofline it would be {name}"
    return (
        f"{name}, {roofline['flop_per_byte']:.3g} FLOP/byte with the ridge at "
        f"{roofline['ridge_flop_per_byte']:.3g}; the step takes "
        f"{1 / roofline['share_of_attainable']:.2g} times its floor{where}"
    )


def _headline(result: dict[str, Any]) -> list[str]:
    devices = f"{result['num_devices']} x {result['device']} ({result['parallel']})"
    data = f"batch {result['batch_size']}, {result['image_size']} x {result['image_size']}"
    return [
        f"{devices}, {data}, {result['dtype']}",
        "median ms",
        "p5",
        "p95",
        "images/s",
        "TFLOP/s",
        "MFU",
    ]


def _time_rows(result: dict[str, Any]) -> list[list[str]]:
    step, inference = result["train_step"], result["inference"]
    pipelined, end_to_end = step["pipelined"], result["end_to_end"]
    stages = [
        [_stage_name(name, result["stages"][key]), *_spread(result["stages"][key]), "", "", ""]
        for key, name in STAGE_NAMES.items()
        if result["stages"][key]
    ]
    return [
        ["step, synchronised after each", *_spread(step), *_rate(step)],
        ["steps in a row", _number(pipelined["mean_ms"]), "", "", *_rate(pipelined)],
        *stages,
        ["  whole step, timed with the stages", *_spread(result["stages"]["whole"]), "", "", ""],
        [f"input alone ({_kind(result)})", "", "", "", *_rate(result["input"])],
        ["end to end", "", "", "", *_rate(end_to_end)],
        [
            f"evaluation, batch {result['evaluation']['batch_size']}",
            *_spread(result["evaluation"]),
            *_rate(result["evaluation"]),
        ],
        [
            f"inference, batch {inference['batch_size']}",
            *_spread(inference),
            *_rate(inference),
        ],
        ["inference, one image, with transfers", *_spread(inference["single"]), "", "", ""],
    ]


def _stage_name(name: str, figures: dict[str, float]) -> str:
    # Differences between two programs, which may be smaller than the spread of either.
    if figures["p5_ms"] > 0:
        return f"  {name}"
    if figures["p95_ms"] < 0:
        return f"  {name} (negative: the longer program was the faster one)"
    return f"  {name} (not distinguishable from 0)"


def _machine_rows(result: dict[str, Any]) -> list[list[str]]:
    peaks, compilation, roofline = result["peaks"], result["compile"], result["roofline"]
    step, memory, fed = result["train_step"], result["memory"], result["end_to_end"]
    cache = "loaded from the persistent cache" if compilation["persistent_cache"] == "hit" else ""
    rows = [
        ["tracing and lowering", f"{compilation['lowering_seconds']:.1f} s", ""],
        ["compiling", f"{compilation['xla_seconds']:.1f} s", cache],
        [
            "input stall",
            f"{max(0.0, fed['input_stall']):.1%} ± {fed['input_stall_error']:.1%}",
            "of the end-to-end time",
        ],
        [
            "images/s per device",
            _number(step["images_per_second_per_device"]),
            "synchronised after each",
        ],
        ["work", f"{result['gflop_per_image']['training']:.2f} GFLOP", "per image, analytic"],
        ["matrix product", f"{peaks['matmul_tflops']:.4g} TFLOP/s", "measured, per device"],
        ["memory bandwidth", f"{peaks['bandwidth']:.4g} GB/s", "measured, per device"],
        ["MFU, measured", f"{step['mfu_measured']:.1%}", "of the matrix product"],
    ]
    if peaks["vendor_tflops"]:
        rows += [
            ["vendor's peak", f"{peaks['vendor_tflops']:.4g} TFLOP/s", "bfloat16, per device"],
            ["vendor's bandwidth", f"{peaks['vendor_bandwidth']:.4g} GB/s", "per device"],
        ]
    if roofline:
        rows += [
            ["bytes of a step", _bytes(roofline["bytes_per_device"]), "XLA's count, per device"],
            ["intensity", f"{roofline['flop_per_byte']:.3g} FLOP/byte", "bytes as above"],
            ["ridge", f"{roofline['ridge_flop_per_byte']:.3g} FLOP/byte", "measured"],
            [
                "attainable",
                f"{roofline['attainable_tflops_per_second']:.3g} TFLOP/s",
                f"{roofline['share_of_attainable']:.0%} of it reached",
            ],
            [
                "floor of a step",
                f"{_number(roofline['floor_ms'])} ms",
                f"{roofline['bound']}-bound",
            ],
        ]
    rows.append(
        ["memory of a step", _bytes(float(memory["planned_bytes"])), "XLA's plan, per device"]
    )
    if memory["peak_bytes"]:
        rows.append(["peak memory", _bytes(float(memory["peak_bytes"])), "measured, per device"])
    return rows


def _kind(result: dict[str, Any]) -> str:
    return "images on the device" if result["resident"] else result["data"]


def _spread(figures: dict[str, Any]) -> list[str]:
    return [_number(figures[name]) for name in ("median_ms", "p5_ms", "p95_ms")]


def _rate(figures: dict[str, Any]) -> list[str]:
    tflops, mfu = figures.get("tflops_per_second"), figures.get("mfu")
    return [
        _number(figures["images_per_second"]),
        "" if tflops is None else f"{tflops:.4g}",
        "" if mfu is None else f"{mfu:.1%}",
    ]


def _number(value: float) -> str:
    """Returns a number with three digits, and no more decimals than they need."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
