"""What is counted in must be counted out, or the service sheds for ever."""

import pytest

from service.admission import Admission
from service.problems import ServiceProblem


def test_bytes_of_a_request_that_has_gone_are_not_counted() -> None:
    admission = Admission(2, 100)
    with admission.enter() as ticket:
        ticket.hold(60)
        with pytest.raises(ServiceProblem):
            ticket.hold(60)
    ticket.hold(60)  # its image was still being decoded
    assert admission.held_bytes == 0
    assert admission.requests == 0
