"""dynpartition.agent.paper: the agents of the DynPartition paper (Zeng, Shah and Liu 2023).

They choose a device for every node of a tree at once, from a positional encoding of the tree, by a
small fully connected network: a one-step decision. Axis letters: N tasks, n nodes, M nodes that
the network has room for, C columns of the encoding, D devices, B episodes. What needs torch is
imported by module.
"""

if __name__ != "dynpartition.agent.paper":
    raise ImportError("import dynpartition.agent.paper, not paper")
