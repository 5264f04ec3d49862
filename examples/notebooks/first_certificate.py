# %% [markdown]
# # A first certificate
#
# How far can the output of a network move when its input moves? Train a small one, bound its Lipschitz constant, and hand the proof to someone else.
# Needs `pip install 'lipcert[plots,pandas]'`.

# %%
import warnings

import torch
from torch import nn

import lipcert

warnings.simplefilter("ignore")  # torch's own, about its exporters

torch.manual_seed(0)
angle = torch.rand(400) * torch.pi
upper_moon = torch.stack([angle.cos(), angle.sin()], dim=1)
x = torch.cat([upper_moon, torch.tensor([1.0, 0.5]) - upper_moon]) + 0.1 * torch.randn(800, 2)
y = torch.cat([torch.zeros(400), torch.ones(400)])

net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
for _ in range(200):
    optimiser.zero_grad()
    nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y).backward()
    optimiser.step()
print(f"accuracy {((net(x)[:, 0] > 0) == (y > 0.5)).float().mean():.3f}")

# %% [markdown]
# ## A number that is true
#
# An `nn.Module` does not record the shape of its input, so an example goes with it. Three methods of many: the product of the layers, a search for steep
# places, and a semidefinite program. Leave `methods` out and all that apply are run.

# %%
report = lipcert.bound(net, x, methods=["product", "sampled", "lipsdp"])
report

# %% [markdown]
# `report.upper` is **proved** in real arithmetic, the rounding of lipcert's own computation included. `report.lower` is **attained** at a stored pair of points.
# The constant lies between them: no two inputs, however chosen, make the output move more than `upper` times as far.

# %%
print(report)
_ = report.plot()
# %%
report.to_frame()[["method", "side", "rigor", "value"]]

# %% [markdown]
# Try to break it: half a million pairs, near and far.

# %%
a = torch.randn(500_000, 2, dtype=torch.float64) * 2
b = a + torch.randn_like(a) * 10 ** torch.empty(500_000, 1, dtype=torch.float64).uniform_(-3, 1)
with torch.no_grad():
    f = net.double()
    steepest = float(((f(a) - f(b)).norm(dim=1) / (a - b).norm(dim=1)).max())
    net.float()
print(f"steepest of half a million pairs: {steepest:.2f}; proved: {report.upper:.2f}")
assert steepest <= report.upper

# %% [markdown]
# ## Which layer is to blame

# %%
_ = lipcert.layers(net, x).plot()
# %% [markdown]
# ## A certificate for someone who does not trust you
#
# Save the model and the certificate; `verify` reads both and proves the claim again, without any solver.

# %%
torch.onnx.export(net, x[:1], "moons.onnx", dynamo=False)
lipcert.bound("moons.onnx", methods=["product", "sampled", "lipsdp"], certificate="moons.cert")
lipcert.verify("moons.cert", "moons.onnx", norm="2")

# %% [markdown]
# ## What has no number
#
# A function that jumps has no Lipschitz constant, and lipcert says so, with the node and what to do. It never returns a large number instead.


# %%
class Rounded(nn.Module):
    def forward(self, x):
        return torch.round(net(x))


refused = lipcert.bound(Rounded(), x, methods=["product"])
print(refused.status, refused.upper)
refused

# %% [markdown]
# Next: [local maps](../local_maps/), [along training](../training_track/), and the [tutorial of the command line](../../tutorial/).
