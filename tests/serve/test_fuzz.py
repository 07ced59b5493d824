"""The interface keeps what its own description says, whatever is sent; schemathesis makes the requests."""

import pytest

from fakes.services import photograph, png, running
from refineseg.serve.limits import RequestLimits


@pytest.fixture(scope="module")
def service(model):
    with running({"tiny": model}, RequestLimits(max_bytes=300_000, max_pixels=400_000)) as found:
        yield found


@pytest.mark.slow
def test_the_interface_keeps_its_own_description(service):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance  # not every byte string is an image

    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def asked(case):
            nonlocal count
            count += 1
            if case.method == "POST" and count % 3 == 0:
                case.body, case.media_type = png(photograph((20, 30))), "application/octet-stream"
            case.call_and_validate(timeout=30, excluded_checks=[positive_data_acceptance])

        given(case=operation.as_strategy())(asked)()
    assert count >= 50
    assert service.segment(png(photograph())).status == 200


def test_the_description_names_every_output_and_every_refusal(service):
    found = service.call("GET", "/openapi.json").json
    segment = found["paths"]["/v1/segment"]["post"]
    assert set(segment["requestBody"]["content"]) == {"application/octet-stream", "multipart/form-data"}
    assert {"200", "400", "401", "408", "413", "422", "429", "504"} <= set(segment["responses"])
    assert {parameter["name"] for parameter in segment["parameters"]} == {"model", "output", "scales", "flip"}
    assert {"/v1/models", "/healthz", "/readyz", "/metrics"} <= set(found["paths"])
