"""From a radiograph to its lungs: network, outline, sides, doubts, and the files of each."""
