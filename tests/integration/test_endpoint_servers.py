"""`transformers serve` with a tiny base on loopback: the answers are those of our own generation, example for example."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from pipeline.evaluate.endpoints.exchanges import read_text, text_request
from pipeline.evaluate.endpoints.send import send_requests
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.generation.text_answers import encode_prompts
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.templates import build_prompt
from tests.conftest import ROOT

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

LIMIT = 24
