"""Epsilons of DP-SGD by dp-accounting 0.6.0 (Google), for learn.accountant: by its Renyi accountant and by its PLDs.

python tests/golden/make_private.py
"""

import json
from pathlib import Path

import dp_accounting as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

CASES = [  # rate, noise, steps, delta
    (0.01, 1.0, 1000, 1e-5),
    (0.01, 0.6, 300, 1e-5),
    (0.004, 1.1, 14000, 1e-6),
    (0.1, 2.0, 200, 1e-5),
    (1.0, 5.0, 20, 1e-5),
]


def main() -> None:
    """Write private.json."""
    found = []
    for rate, noise, steps, delta in CASES:
        event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), steps)
        renyi, tight = RdpAccountant(), PLDAccountant(value_discretization_interval=1e-3)
        case = {"rate": rate, "noise": noise, "steps": steps, "delta": delta}
        case |= {name: a.compose(event).get_epsilon(delta) for name, a in (("renyi", renyi), ("tight", tight))}
        found.append(case)
    Path(__file__).with_name("private.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
