# %% [markdown]
# # Smoothness along training
#
# Rosca et al. 2020 (Figure 5a): the learning rate alone, with no penalty at all, decides how smooth a network becomes. Watch it while it trains, then ask the same
# of the checkpoints on disk, and compare two of them.

# %%
from pathlib import Path

import torch
from torch import nn

import lipcert
from lipcert.tasks.training import Smoothness

torch.manual_seed(0)
centres = torch.randn(4, 16)
label = torch.arange(600) % 4
x = centres[label] + 0.7 * torch.randn(600, 16)

# %% [markdown]
# ## While it trains
#
# `Smoothness` measures every so many calls and gives a dict of floats to any logger: TensorBoard, MLflow, W&B, or a list.

# %%
logged = []
for rate in (0.03, 0.003):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    folder = Path(f"rate{rate}")
    folder.mkdir(exist_ok=True)
    log = lambda values, step, rate=rate: logged.append({"rate": rate, "step": step, **values})
    watch = Smoothness(example=x[:1], every=20, x=x[:100], y=label[:100], log=log)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for step in range(101):
        watch(net, step)
        if step % 20 == 0:
            torch.jit.trace(net, x[:1]).save(folder / f"step_{step}.pt")
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), label).backward()
        optimiser.step()

# %%
import pandas as pd

columns = ["rate", "step", "lipcert/lower", "lipcert/upper", "lipcert/jacobian/median", "lipcert/accuracy"]
pd.DataFrame(logged)[columns].round(3)

# %% [markdown]
# ## Of checkpoints on disk
#
# Each folder is a series, in natural order. `lipcert track rate0.03 rate0.003 --plot track.png` is the same on the command line.

# %%
report = lipcert.track(["rate0.03", "rate0.003"], x=x[:100], y=label[:100])
report.plot()
report

# %% [markdown]
# Equal accuracy, and certified brackets that are apart:

# %%
last = report.to_frame().groupby("series").last()
print(last[["accuracy", "lower", "upper"]].round(2))
assert last.loc["rate0.003", "upper"] < last.loc["rate0.03", "lower"]

# %% [markdown]
# ## Two of them, compared

# %%
lipcert.compare(
    lipcert.bound("rate0.03/step_20.pt", input_shape=(1, 16), methods=["product", "sampled", "lipsdp"]),
    lipcert.bound("rate0.03/step_100.pt", input_shape=(1, 16), methods=["product", "sampled", "lipsdp"]),
)
