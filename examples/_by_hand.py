"""What the tutorials need without an estimator, in plain PyTorch: to compare with, and to count."""

import inspect
from itertools import pairwise

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Network(nn.Module):
    """Linear layers of these sizes, with ReLU between them."""

    def __init__(self, *sizes):
        super().__init__()
        layers = []
        for n_inputs, n_outputs in pairwise(sizes):
            layers += [nn.Linear(n_inputs, n_outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, X):
        """Logits."""
        return self.layers(X)


class ModernNetwork(Network):
    """Batch normalization, ReLU and dropout after each hidden layer."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        layers = []
        for linear in self.layers[:-1:2]:
            layers += [linear, nn.BatchNorm1d(linear.out_features), nn.ReLU(), nn.Dropout(0.2)]
        self.layers = nn.Sequential(*layers, self.layers[-1])


def count_parameters(network):
    """Number of weights and biases."""
    return sum(parameter.numel() for parameter in network.parameters())


def make_loader(X, y, batch_size):
    """Shuffled mini-batches of two arrays."""
    return DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=batch_size, shuffle=True)


def train_epoch(network, loader, optimizer):
    """Train on all mini-batches once; the mean loss."""
    network.train()
    total = 0.0
    for X, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(X), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(X)
    return total / len(loader.dataset)


def train_full_batch(X, y, epochs, seed):
    """A network, trained on all rows at once by Adam with a rate of 0.001."""
    torch.manual_seed(seed)
    network = Network(X.shape[1], 64, 32, 3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(X), y).backward()
        optimizer.step()
    return network


@torch.no_grad()
def evaluate(network, X, y):
    """Loss and accuracy."""
    network.eval()
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    logits = network(X)
    return nn.functional.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def count_lines(*things):
    """Lines of functions and classes, but for blank ones and docstrings (of one line)."""
    lines = [line.strip() for thing in things for line in inspect.getsource(thing).splitlines()]
    return sum(1 for line in lines if line and not line.startswith('"""'))
