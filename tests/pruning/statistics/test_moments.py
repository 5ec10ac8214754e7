"""Moments equal those of plain products in float64."""

import torch
from torch import nn

from recprune_export.program.capture import capture
from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.statistics.activation_sites import find_consumer_sites
from recprune_export.pruning.statistics.moments import gather_moments


def test_moments_are_those_of_plain_products() -> None:
    torch.manual_seed(0)
    width = 300  # more than one block
    program = capture(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1)).eval(), (torch.randn(3, 8),))
    (name,) = program.signature.inputs
    batches = [({name.name: torch.randn(40, 8)}, {}) for _ in range(3)]
    sites = {group: consumers.sites for group, consumers in find_consumer_sites(program).items()}
    ((group, (site,)),) = sites.items()
    moments = gather_moments(
        program, sites, batches, lambda response, _: sum(v.square().sum() for v in response.values())
    )[group]
    recorder = ValueRecorder(program, [site.node], keep_gradients=True)
    values, gradients = [], []
    for request, _ in batches:
        recording = recorder(request)
        (value,) = recording.values.values()
        total = torch.stack([answer.square().sum() for answer in recording.answers.values()]).sum()
        gradients += torch.autograd.grad(total, [value])
        values.append(value.detach())
    x, g = torch.cat(values).double(), torch.cat(gradients).double()
    torch.testing.assert_close(moments.values, x.T @ x / len(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        moments.covariance, x.T @ x / len(x) - torch.outer(x.mean(0), x.mean(0)), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(moments.gradients, g.T @ g / len(g), rtol=1e-5, atol=1e-6 * float(g.square().max()))
