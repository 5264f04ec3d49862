"""LipSDP by sweeps and one proof: the main loop of MATH section 4.

sweep until the value settles -> repair the multipliers -> prove them (lmi.prove) -> stop when the gap is closed
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.proofs.lmi import INPUT, Coefficients, last_variable, prove
from lipcert.proofs.normal_form import NormalForm
from lipcert.rigor.rounding import EPS, sqrt_up
from lipcert.sdp.closed import proved_closed_form
from lipcert.sdp.interior import interior
from lipcert.sdp.multipliers import depths, inflated, positive, restored
from lipcert.sdp.sweep import Anderson, Dual, Pass
from lipcert.terms.clock import OutOfTime

Say = Callable[[str, float | None, float | None], None]


@dataclass
class Info:
    """What happened, for the report."""

    sweeps: int = 0
    proofs: int = 0
    dual: float = 0.0  # sqrt of the best dual value: a lower bound of the LipSDP optimum
    proved: float = math.inf  # L
    newton: int = 0  # steps of the interior point method
    source: str = "none"  # which multipliers were proved: "interior", "sweep" or "closed form"
    rows: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"sweeps": 0.0, "proofs": 0.0})

    @property
    def gap(self) -> float:
        return self.proved / self.dual - 1 if self.dual > 0 else math.inf


@dataclass
class Solution:
    """`multipliers` and `last` re-prove `info.proved` by lmi.prove; empty where nothing was proved."""

    info: Info
    multipliers: list[Tensor]
    last: int


@dataclass(frozen=True)
class Settings:
    """`tolerance`: of proved / dual - 1. 0: by size, 1e-7 for small networks, 5e-5 for thousands of neurons.
    `work`: flops of all proofs together, a minute or so of one core; three proofs are made in any case."""

    tolerance: float = 0.0
    sweeps: int = 1500
    seed: int = 0
    work: float = 1e12

    def wanted(self, neurons: int) -> float:
        if self.tolerance > 0:
            return self.tolerance
        for limit, value in ((150, 1e-7), (600, 5e-7), (1500, 1e-5), (4000, 9e-5)):
            if neurons <= limit:
                return value
        return 5e-4

    def aimed_at(self, neurons: int) -> float:
        """The gap at which nothing more is tried, however slowly it closes."""
        return max(self.wanted(neurons) * 1.01, 1e-4)


STILL = 25  # sweeps without growth after which sweeping is over
ENOUGH = 300  # sweeps after which a gap of 1e-4 will do
SETTLED = 1e-12  # a residual at which more sweeps change nothing
HOPELESS = 3  # failed proofs of settled multipliers: the rounding is too large for any


class Solver:
    """One normal form: its dual, its proofs, and the best so far. `run` may be stopped at any time (deadline)."""

    def __init__(
        self,
        form: NormalForm,
        table: Coefficients,
        settings: Settings,
        deadline: float | None,
        say: Say,
        begin: Tensor | None = None,
    ):
        self.form, self.table, self.settings, self.deadline, self.say = form, table, settings, deadline, say
        self.begin = begin
        self.last = self.proved_last = last_variable(form)
        self.levels = depths(form, table)
        self.chain = all(len(table.rows[k]) <= 1 for k in range(1, len(table.sizes)))
        rows = (
            (16 if form.neurons <= 600 else 32)
            if begin is None
            else begin.numel() // (form.neurons + table.sizes[INPUT])
        )
        self.info = Info(rows=rows)
        self.best: list[Tensor] = []
        self.proofs_left = int(max(3, settings.work / factorisation_flops(table)))

    def run(self) -> Solution:
        with contextlib.suppress(OutOfTime):  # in a sweep, a repair or a proof: what was proved before stands
            self.search()
        return Solution(self.info, self.best, self.proved_last)

    def search(self) -> None:
        wanted = self.settings.wanted(self.form.neurons)
        if not self.through_the_interior(wanted):
            self.sweep(wanted)

    def through_the_interior(self, wanted: float) -> bool:
        """Deep narrow chains, by Newton's method. False: it is none, or the gap is not closed."""
        start = time.perf_counter()
        neurons = self.form.neurons  # each step is one Cholesky of as many rows
        aim = wanted / 4 if neurons <= 300 else max(wanted / 4, 5e-6 if neurons <= 600 else 4e-5)
        found = interior(self.form, self.table, aim, self.settings.seed, self.out_of_time)
        if found is None:
            return False
        self.info.seconds["interior"] = time.perf_counter() - start
        self.info.newton = found.steps
        self.info.dual = max(self.info.dual, math.sqrt(max(found.dual, 0.0)))
        least = 40 * EPS * sum(self.table.sizes) ** 2
        for eta in (
            least,
            100 * least,
            1e4 * least,
        ):  # for the rounding of the proof: they are strictly feasible by little
            grown = inflated(found.multipliers, self.levels, eta, from_output=True)
            rho = found.rho * (1 + eta) ** (2 * max(self.levels))
            if self.attempt(self.anchored(grown, rho), rho, "interior"):
                break
        return self.info.gap <= self.settings.aimed_at(neurons)

    def sweep(self, wanted: float) -> None:
        dual = Dual(self.form, self.info.rows, self.settings.seed)
        anderson = Anderson()
        state = dual.start() if self.begin is None else dual.unit(dual.state(self.begin))
        fallback = None  # the plain image of the last accepted state
        history: list[float] = []
        newest: Pass | None = None
        promising = (
            5 if self.form.neurons <= 1500 else 10
        )  # where a proof takes as long as many sweeps, it is worth waiting
        aim, overdue = (
            wanted / promising,
            60,
        )  # a residual that promises the gap; the sweep at which to look in any case
        failed = 0
        while self.info.sweeps < self.settings.sweeps and self.proofs_left > 1 and not self.out_of_time():
            start = time.perf_counter()
            swept = dual.sweep(state)
            self.info.sweeps += 1
            self.info.seconds["sweeps"] += time.perf_counter() - start
            if swept.value == 0.0 or not math.isfinite(swept.value):  # squares beyond float64: nothing to sweep
                break
            if fallback is not None and swept.value < history[-1] * (1 - 1e-13):
                anderson.forget()  # the accelerated step lost ground: take the plain one
                state, fallback = fallback, None
                continue
            history.append(swept.value)
            self.info.dual = max(self.info.dual, math.sqrt(swept.value))
            fallback = swept.after
            state = dual.unit(dual.state(anderson.next(state.flat, swept.after.flat)))
            self.say("lipsdp", self.info.sweeps, None)
            if anderson.residual <= aim or self.info.sweeps >= overdue:
                self.certify(swept.multipliers, wanted, history[-1])
                still = len(history) > STILL and history[-1] <= history[-1 - STILL] * (1 + 1e-11)
                if self.info.gap <= wanted * 1.01 or (self.info.gap <= 1e-4 and (still or self.info.sweeps > ENOUGH)):
                    break
                failed += not self.best and anderson.residual <= SETTLED
                if failed == HOPELESS:
                    break
                # the gap shrinks about as the residual does
                share = min(0.5, 0.8 * wanted / self.info.gap) if 0 < self.info.gap < math.inf else 0.5
                aim, overdue = share * min(aim, anderson.residual), self.info.sweeps * 3 // 2
            newest = swept
        if self.info.gap > self.settings.aimed_at(self.form.neurons):
            self.fall_back(newest.multipliers if newest else [], history[-1] if history else 0.0)

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def certify(self, raw: Sequence[Tensor], wanted: float, value: float) -> None:
        """Repair and prove, gentlest repair first."""
        # the proof subtracts about 3 N^2 u from a diagonal of 1; eta and delta are what a repair adds to it
        least = 40 * EPS * sum(self.table.sizes) ** 2
        depth = max(self.levels)
        if self.chain:
            # eta costs L a factor (1 + eta)^depth; unsettled multipliers need more of it, and in large networks tries are dear
            deep = depth > 8
            eta = max(least, wanted / (8 * depth)) if deep or self.form.neurons > 1500 else least
            for _ in range(4):
                stands = self.inflate(raw, value, eta)
                eta *= 5
                if self.info.gap <= wanted or (stands and not deep) or 2 * eta * depth > self.info.gap:
                    break
            if math.isfinite(self.info.gap):
                return
        for delta in (least, 100 * least) if self.form.neurons <= 600 else (30 * least,):
            self.restore(raw, delta)

    def inflate(self, raw: Sequence[Tensor], value: float, eta: float) -> bool:
        """The closed-form repair of a chain: one factorisation."""
        multipliers = inflated(self.anchored(positive(raw), value), self.levels, eta, from_output=self.last == INPUT)
        return self.attempt(multipliers, value, "sweep")

    def restore(self, raw: Sequence[Tensor], delta: float) -> bool:
        """The repair of any graph: one elimination, one factorisation. Not tried where it cannot improve."""
        start = time.perf_counter()
        found = restored(self.form, self.table, positive(raw), delta)
        self.info.seconds["proofs"] += time.perf_counter() - start
        if not found.multipliers or found.rho <= 0 or found.rho >= self.info.proved**2:
            return False
        # from the input on, Lambda / rho must not be based on a rho that the Lanczos estimate has left too small
        small = self.form.neurons <= 600
        margins = (0.0,) if self.last == INPUT else (1e-7, 1e-6, 1e-5, 1e-4) if small else (1e-5, 1e-4)
        return any(
            self.attempt(self.anchored(found.multipliers, found.rho * (1 + m)), found.rho * (1 + m), "sweep")
            for m in margins
        )

    def anchored(self, multipliers: list[Tensor], value: float) -> list[Tensor]:
        """The sweep's multipliers are for s_y = 1; divided by rho they are for s_x = 1."""
        return multipliers if self.last == INPUT else [m / value for m in multipliers]

    def attempt(self, multipliers: list[Tensor], rho: float, source: str) -> bool:
        if self.proofs_left <= 0:
            return False
        self.proofs_left -= 1
        start = time.perf_counter()
        proved = prove(self.form, self.table, multipliers, last=self.last, rho=rho)
        self.info.proofs += 1
        self.info.seconds["proofs"] += time.perf_counter() - start
        if not math.isfinite(proved):
            return False
        constant = math.nextafter(math.sqrt(proved), math.inf)
        if constant < self.info.proved:
            self.info.proved, self.best, self.info.source = constant, multipliers, source
            self.proved_last = self.last
        return True

    def fall_back(self, newest: Sequence[Tensor], value: float) -> None:
        """The sweeps have not settled: take larger margins, then the closed form, and say so in `source`."""
        self.proofs_left = max(self.proofs_left, 3)
        for eta in (1e-5, 1e-4, 1e-3, 1e-2) if self.chain and newest else ():
            if self.proofs_left > 1 and self.inflate(newest, value, eta):
                break
        for delta in (1e-5, 1e-3, 1e-2, 0.1):
            if newest and self.proofs_left > 1 and self.info.gap > 1e-4:
                self.restore(newest, delta)
        safe = proved_closed_form(self.form, self.table, below=self.info.proved**2)
        if safe is not None and safe.rho < self.info.proved**2:
            self.info.proofs += 1
            self.info.proved, self.info.source = sqrt_up(safe.rho), "closed form"
            self.best, self.proved_last = safe.multipliers, safe.last


def factorisation_flops(table: Coefficients) -> float:
    """Of one block Cholesky, fill left out."""
    total = 1.0
    for k in range(1, len(table.sizes)):
        n, coupled = float(table.sizes[k]), float(sum(table.sizes[j] for j in table.rows[k]))
        total += n**3 / 3 + n**2 * coupled + n * coupled**2
    return total


def solve(
    form: NormalForm,
    table: Coefficients,
    settings: Settings,
    deadline: float | None = None,
    say: Say | None = None,
    begin: Tensor | None = None,
) -> Solution:
    """The proved LipSDP value of a normal form with at least one layer. `begin`: a state of the sweeps, flat (`together.py`);
    where the gap is not closed from there, the search begins anew."""
    with torch.no_grad():
        found = Solver(form, table, settings, deadline, say or (lambda *_: None), begin).run()
        if begin is None or found.info.gap <= settings.aimed_at(form.neurons):
            return found
        again = Solver(form, table, settings, deadline, say or (lambda *_: None)).run()
        return again if again.info.proved < found.info.proved else found
