"""No op keeps memory: python tests/reliability/memory.py is the long run."""

import pytest
from reliability.everything import calls
from reliability.memory import growth

# A leak of one 4 KB tensor a call would be 1.6 MB.
CALLS, MOST = 400, 1 << 20


@pytest.mark.parametrize("name", calls())
def test_no_growth(name):
    grown = [growth(calls()[name], CALLS)]
    while min(grown) > MOST and len(grown) < 3:  # what an allocator sets aside comes once
        grown.append(growth(calls()[name], CALLS))
    assert min(grown) <= MOST, f"{name} grows by {grown} bytes in {CALLS} calls"
