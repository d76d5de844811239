"""One of two clients that train a linear model on data of their own, with no server.

In one terminal: python client.py alice     In another: python client.py bob
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import gossipfl

name = sys.argv[1]

torch.manual_seed(1 if name == "alice" else 2)  # each has data of its own, of one truth
x = torch.randn(100, 10)
y = x @ torch.arange(1.0, 11.0).reshape(10, 1) + 0.1 * torch.randn(100, 1)
loader = DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True)

torch.manual_seed(0)  # both start from the same model
model = torch.nn.Linear(10, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

with gossipfl.join(Path(__file__).with_name("swarm.toml"), model, optimizer, name=name) as node:
    for epoch in range(10):
        for inputs, target in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), target)
            loss.backward()
            optimizer.step()
        print(f"{name}: epoch {epoch + 1}, loss {loss.item():.3f}")
print(f"{name}: weights", [round(w, 3) for w in model.weight[0].tolist()])
