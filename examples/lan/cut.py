"""Cut the digits into one file a node: alice gets every fourth one, bob the next, ..."""

from pathlib import Path

import numpy as np

from gossipfl.learning.tasks.digits import digits

pixels, labels = digits().train.tensors
for index, name in enumerate(("alice", "bob", "carol", "dave")):
    Path(name).mkdir()
    own = slice(index, None, 4)
    np.savez(f"{name}/digits.npz", pixels=16 * pixels[own].numpy(), labels=labels[own].numpy())
