"""Faults as tests: things are broken on purpose, and afterwards one checker asserts that nothing was lost.

    topology   what is deployed: programs, database, Triton
    cluster    starts the programs, knows their pids, kills and stops them
    trial      one scenario: jobs, followers, faults; at its end `gathering` collects the evidence ...
    checker    ... and the invariants I1 to I10 are judged by it, and by nothing else
    rig        the use cases in this process, for faults at the n-th call of a port

`make faults` runs all, `make faults-quick` what CI has time for; SEED=, SEEDS= as `seeds` says.
"""
