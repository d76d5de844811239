"""A stock PyTorch loop on blobs of four classes, of which each machine holds two. RANK: which it is."""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gossipfl

rank = int(os.environ.get("RANK", "0"))
centers = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])


def blobs(classes: list[int], seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat(200 // len(classes))
    return TensorDataset(centers[labels] + 0.5 * torch.randn(len(labels), 2, generator=generator), labels)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for _ in range(20):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        schedule.step()


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(blobs([rank, (rank + 1) % 4], seed=rank), batch_size=20, shuffle=True)

with gossipfl.join("swarm.toml", model, optimizer):
    train(model, optimizer, loader)

x, y = blobs([0, 1, 2, 3], seed=9).tensors
print(f"machine {rank}: accuracy {(model(x).argmax(1) == y).float().mean():.2f} on all four classes")
