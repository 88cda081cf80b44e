"""What a process has to do with its machine: cores, memory, caches, other hosts, signals."""
