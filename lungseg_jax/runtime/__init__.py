"""How a process deals with its machine: cores, memory, caches, other hosts, signals."""
