"""From a radiograph to its lungs: network, outline, sides, doubts, and result files."""
