"""Speed and memory against peers on the same work, growth with rows and columns, and what a second rank brings.

    python -m benchmarks.speed --scratch FOLDER [--only training,scoring] [--peer-python PYTHON] [--repeats 3]

Every method runs in a process of its own, in turn with the others (A B C A B C), so that only ratios within one run
count. Peers that the interpreter `--peer-python` does not hold are skipped, and named as skipped.
"""
