"""Optimizers stepped by hand, on gradients of very different sizes."""

import numpy as np
import torch

from sktorch_mlp._nn.network import NetworkSpec, StackedMLP

N_STEPS = 25


def random_network(n_networks, networks=None):
    """A stack of small random networks, or some networks of it, with a gradient."""
    network = StackedMLP(NetworkSpec((3, 4, 2), ("relu",), dtype=torch.float64), n_networks)
    network.flat.data.normal_(generator=torch.Generator().manual_seed(0))
    network = network if networks is None else network.select(networks)
    network.flat.grad = torch.zeros_like(network.flat)
    return network


def gradients(n_networks, networks=None, seed=1):
    """Gradients of very different sizes, exact zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(N_STEPS):
        shape = random_network(n_networks).flat.shape
        gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
        gradient *= 10.0 ** torch.randint(-9, 3, shape, generator=generator)
        gradient[:, ::7] = 0
        yield gradient if networks is None else gradient[networks]


def descend(network, optimizer, given_gradients):
    """Take a step for each gradient; the parameters reached."""
    optimizer.bind(network, N_STEPS)
    return take_steps(network, optimizer, given_gradients)


def take_steps(network, optimizer, given_gradients):
    """Take a step for each gradient with an optimizer that is bound to the network."""
    for gradient in given_gradients:
        network.grad.copy_(gradient)
        with torch.no_grad():
            for step in optimizer.steps(1):
                step()
    return network.flat.detach().numpy()


def descend_with(make_optimizer, n_networks):
    """Let an optimizer of scikit-learn's, ``make_optimizer(params, k)``, take the same steps with each network."""
    params = [row.copy() for row in random_network(n_networks).flat.detach().numpy()]
    optimizers = [make_optimizer([row], k) for k, row in enumerate(params)]
    for gradient in gradients(n_networks):
        for k, optimizer in enumerate(optimizers):
            optimizer.update_params([params[k]], [gradient[k].numpy()])
    return np.array(params)


def descend_with_torch(make_optimizer, change=lambda optimizer, t: None):
    """Let an optimizer of PyTorch take the same steps with one network; `change` it before step t."""
    network = random_network(1)
    parameter = torch.nn.Parameter(network.flat.detach().clone())
    optimizer = make_optimizer([parameter])
    for t, gradient in enumerate(gradients(1), start=1):
        change(optimizer, t)
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach().numpy()
