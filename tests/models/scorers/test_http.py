import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from advgrpo.config.scorers.http import HttpScorerConfig
from advgrpo.config.scorers.union import ScorerConfig
from advgrpo.errors import ConfigError, DataError, JudgeUnavailableError
from advgrpo.models.scorers.base import BuildContext, Scorer
from advgrpo.models.scorers.build import build_scorers
from advgrpo.models.scorers.http import HttpScorer, build

Answer = tuple[int, Any]


class Judge:
    """A local server: `answer` gets the body of each request, which `requests` keeps."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any]], Answer] = _redness
        self.busy, self.most_busy = 0, 0
        self.url = ""


def _red(image: str) -> float:
    picture = Image.open(io.BytesIO(base64.b64decode(image)))
    return round(float(picture.getpixel((0, 0))[0]) / 255, 2)  # type: ignore[index]


def _redness(body: dict[str, Any]) -> Answer:
    return 200, {"scores": {"score": [_red(image) for image in body["images"]]}}


@pytest.fixture
def judge() -> Iterator[Judge]:
    found, lock = Judge(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                found.requests.append(body)
                found.headers.append(dict(self.headers))
                found.busy += 1
                found.most_busy = max(found.most_busy, found.busy)
            status, answer = found.answer(body)
            with lock:
                found.busy -= 1
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            if status in {301, 302}:
                self.send_header("Location", "/login")
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/score"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def _images(*values: float) -> torch.Tensor:
    images = torch.zeros(len(values), 3, 4, 4)
    images[:, 0] = torch.tensor(values).view(-1, 1, 1)
    return images


def _scorer(judge: Judge, **settings: object) -> HttpScorer:
    config = HttpScorerConfig.model_validate(
        {"url": judge.url, "name": "judge", "retries": 0, **settings}
    )
    return build(config, BuildContext(torch.device("cpu"), None))


def _chat(judge: Judge, text: object, **settings: object) -> HttpScorer:
    judge.answer = lambda _body: (200, {"choices": [{"message": {"content": text}}]})
    return _scorer(judge, chat={"model": "vl"}, **settings)


def test_scores_are_in_the_order_of_the_images_whatever_the_order_of_the_answers(
    judge: Judge,
) -> None:
    def slow_first(body: dict[str, Any]) -> Answer:
        time.sleep(0.2 if "0" in body["prompts"] else 0)
        return _redness(body)

    judge.answer = slow_first
    values = [0.0, 0.2, 0.4, 0.6, 0.8]
    scores = _scorer(judge, batch_size=2).score(_images(*values), list("01234"))
    assert scores["score"].tolist() == pytest.approx(values, abs=0.01)
    assert sorted(len(body["images"]) for body in judge.requests) == [1, 2, 2]


def test_requests_run_at_once_up_to_the_limit(judge: Judge) -> None:
    def slow(body: dict[str, Any]) -> Answer:
        time.sleep(0.05)
        return _redness(body)

    judge.answer = slow
    scorer = _scorer(judge, batch_size=1, concurrent_requests=3)
    scorer.score(_images(*[0.5] * 9), ["a"] * 9)
    assert judge.most_busy == 3


def test_a_rating_of_a_vision_language_model_is_divided_by_the_highest(judge: Judge) -> None:
    scores = _chat(judge, "8/10").score(_images(1.0), ["two cups"])
    assert scores["score"].tolist() == pytest.approx([0.8])
    (body,) = judge.requests
    picture, question = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert "two cups" in question["text"]
    assert (body["model"], body["temperature"]) == ("vl", 0)


@pytest.mark.parametrize(
    ("text", "rating"),
    [("0", 0.0), ("10", 1.0), ("10/10", 1.0), ("7.5\n", 0.75), ("Rating: 3", 0.3)],
)
def test_ratings_are_read_as_models_write_them(judge: Judge, text: str, rating: float) -> None:
    scores = _chat(judge, text).score(_images(1.0), ["a"])
    assert scores["score"].tolist() == pytest.approx([rating])


@pytest.mark.parametrize("text", ["", "good", "11", "between 3 and 5", None])
def test_an_answer_without_one_rating_is_an_error_that_names_the_prompt(
    judge: Judge, text: object
) -> None:
    with pytest.raises(DataError, match="'two cups': it has no single number from 0 to 10"):
        _chat(judge, text).score(_images(1.0), ["two cups"])


def test_an_answer_without_a_rating_is_asked_for_again(judge: Judge) -> None:
    scorer = _chat(judge, "", retries=2)
    judge.answer = lambda _body: (
        200,
        {"choices": [{"message": {"content": "6" if len(judge.requests) > 1 else "well"}}]},
    )
    assert scorer.score(_images(1.0), ["a"])["score"].tolist() == pytest.approx([0.6])
    assert len(judge.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_judge_is_asked_again(judge: Judge, status: int) -> None:
    judge.answer = lambda body: _redness(body) if len(judge.requests) > 1 else (status, {})
    scores = _scorer(judge, retries=2).score(_images(0.6), ["a"])
    assert scores["score"].tolist() == pytest.approx([0.6])


def test_a_judge_that_stays_busy_ends_the_task_so_that_it_is_retried(judge: Judge) -> None:
    judge.answer = lambda _body: (503, {})
    with pytest.raises(JudgeUnavailableError, match="judge at http") as caught:
        _scorer(judge, retries=1).score(_images(0.6), ["a"])
    assert caught.value.exit_code >= 128
    assert len(judge.requests) == 2


def test_a_slow_judge_is_given_up_after_the_limit(judge: Judge) -> None:
    def slow(body: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return _redness(body)

    judge.answer = slow
    with pytest.raises(JudgeUnavailableError, match="does not answer"):
        _scorer(judge, timeout_seconds=0.1).score(_images(0.6), ["a"])


def test_a_judge_that_does_not_run_is_named() -> None:
    config = HttpScorerConfig(url="http://127.0.0.1:9/score", name="judge", retries=0)
    with pytest.raises(JudgeUnavailableError, match=r"127\.0\.0\.1:9"):
        HttpScorer(config, "").score(_images(0.6), ["a"])


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_a_refused_request_is_not_repeated(judge: Judge, status: int) -> None:
    judge.answer = lambda _body: (status, {"error": "no such model"})
    with pytest.raises(ConfigError, match=f"status {status}: .*no such model"):
        _scorer(judge, retries=3).score(_images(0.6), ["a"])
    assert len(judge.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b'{"scores": {"score": [NaN]}}',
        {"scores": {"score": [0.1, 0.2]}},
        {"scores": {"score": ["good"]}},
        {"scores": {"other": [0.1]}},
        {"scores": 3},
        [0.1],
    ],
)
def test_an_invalid_answer_is_shown_with_the_expected_form(judge: Judge, answer: object) -> None:
    judge.answer = lambda _body: (200, answer)
    with pytest.raises(DataError, match="the judge judge answered") as caught:
        _scorer(judge).score(_images(0.6), ["two cups"])
    assert '{"scores": {"score": [' in caught.value.repair


def test_the_key_comes_from_a_variable(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match="api_key_variable=JUDGE_API_KEY: the variable is not set"
    ):
        _scorer(judge, api_key_variable="JUDGE_API_KEY")
    monkeypatch.setenv("JUDGE_API_KEY", "sesame-open")
    _scorer(judge, api_key_variable="JUDGE_API_KEY").score(_images(0.6), ["a"])
    assert judge.headers[0]["Authorization"] == "Bearer sesame-open"


def test_two_judges_have_metrics_of_their_own(judge: Judge) -> None:
    adapter = TypeAdapter[Any](ScorerConfig)
    settings = [
        adapter.validate_python({"type": "http", "url": judge.url, "name": name})
        for name in ("first", "second")
    ]
    scorers = build_scorers(settings, torch.device("cpu"))
    assert [scorer.name for scorer in scorers] == ["first", "second"]
    assert all(isinstance(scorer, Scorer) for scorer in scorers)
    assert settings[1].metric_names == ("second.score",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "judge:8000"}, "url"),
        ({"url": "http://user:password@judge"}, "url"),
        ({"api_key_variable": "JUDGE"}, "api_key_variable"),
        ({"chat": {"model": "vl", "question": "Good?"}}, "has no {prompt}"),
        ({"chat": {"model": "vl", "question": "{prompt} {x}"}}, "cannot be filled in"),
        ({"chat": {"model": "vl"}, "metrics": ["a", "b"]}, "metrics must be one with chat"),
        ({"name": "distance"}, "name of built-in metrics"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HttpScorerConfig.model_validate({"url": "http://judge", "name": "judge", **settings})
