# %% [markdown]
# # Where is it steep? Local maps
#
# One constant for all of space is a worst case. Cut a box into cells and bound the constant in each: Figure 4 of Rosca et al. 2020, with a proof in every cell.
# Two networks are set side by side: one trained as usual, one with a penalty on its gradient at the data.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import lipcert

angle = np.linspace(0, np.pi, 200)
moon = np.stack([np.cos(angle), np.sin(angle)], axis=1)
noise = np.random.default_rng(0).normal(0, 0.1, (400, 2))
x = torch.tensor(np.concatenate([moon, [1.0, 0.5] - moon]) + noise, dtype=torch.float32)
y = torch.tensor([0.0] * 200 + [1.0] * 200)


def trained(penalty: float) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(250):
        at = x.clone().requires_grad_()
        out = net(at)[:, 0]
        slope = torch.autograd.grad(out.sum(), at, create_graph=True)[0].norm(dim=1)
        loss = nn.functional.binary_cross_entropy_with_logits(out, y) + penalty * slope.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


nets = {"no penalty": trained(0.0), "gradient penalty": trained(0.002)}

# %% [markdown]
# ## A bracket in every cell
#
# `rtol=0.1` closes each bracket to 10 %. The box is in the order of the inputs: lower corner, upper corner.

# %%
box = lipcert.Box([-1.5, -1.0], [2.5, 1.5])
maps = {name: lipcert.local_grid(net, box, (16, 16), rtol=0.1) for name, net in nets.items()}
for name, found in maps.items():
    print(f"{name}: {found}")
    cells = found.to_frame()
    assert (cells["lower"] <= cells["upper"]).all()

# %% [markdown]
# One colour scale for both, or they cannot be compared: `vmin`, `vmax`.

# %%
most = max(found.upper for found in maps.values())
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for axis, (name, found) in zip(axes, maps.items(), strict=True):
    found.plot(axis, vmin=0, vmax=most)
    axis.scatter(*x.T, c=y, s=4, cmap="gray", edgecolors="white", linewidths=0.3)
    axis.set_title(name)

# %% [markdown]
# The penalty acts where the data are; what it does elsewhere, the map shows. Its steepest cells:

# %%
maps["gradient penalty"].to_frame().nlargest(5, "upper")

# %% [markdown]
# ## Around a few samples
#
# Balls of growing radius: values grow from the norm of the gradient to the constant of the whole space.

# %%
balls = lipcert.local(nets["no penalty"], x[::80], eps=[0.01, 0.05, 0.2], each=0.5)
balls.plot()
balls.to_frame()[["index", "eps", "lower", "upper", "method"]].head(6)

# %% [markdown]
# ## From constants to radii
#
# How far may each sample move before its class can change? One logit is read by its sign.

# %%
radii = lipcert.radius(nets["gradient penalty"], x[::20], y[::20].int(), eps=[0.05, 0.1])
radii.plot()
radii.summary["certified"]
