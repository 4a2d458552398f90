import ipaddress
import random
from itertools import islice

from clusters.network import free_port, loopback_addresses, virtual_ranges


def test_addresses_and_ranges_lie_on_loopback_and_apart():
    for seed in range(50):
        rng = random.Random(seed)
        addresses = [ipaddress.ip_address(a) for a in islice(loopback_addresses(rng), 10)]
        assert len(set(addresses)) == 10
        ranges = [ipaddress.ip_network(r) for r in islice(virtual_ranges(rng), 10)]
        virtual = ipaddress.ip_network("127.128.0.0/9")
        assert all(r.subnet_of(virtual) for r in ranges)
        assert not any(a.overlaps(b) for a in ranges for b in ranges if a is not b)
        assert all(a in ipaddress.ip_network("127.0.0.0/9") for a in addresses)


def test_a_free_port_can_be_bound_on_that_address():
    assert 1024 <= free_port("127.0.0.1") <= 65535
