"""What a generator that knows only the OpenAPI document cannot know: uploads that are Wasm, and names of things that are
there, so that requests get past "there is no such thing". Notes every answer, for the test to count.

Environment: WEIR_SCHEMA_WASM, files to upload, separated by colons; WEIR_SCHEMA_ANSWERS, the file for the notes.
"""

import os
import random
from pathlib import Path

import schemathesis

UPLOADS = [Path(name).read_bytes() for name in os.environ["WEIR_SCHEMA_WASM"].split(":")]
ANSWERS = open(os.environ["WEIR_SCHEMA_ANSWERS"], "a", buffering=1)
# What the test has made: the chain `edge` must stay, the others may come and go.
FUNCTIONS = ["gate", "spare"]
CHAINS = ["edge", "spare"]
VERSIONS = ["1.0.0", "2.0.0"]
PREFIXES = ["10.0.0.0/8", "192.0.2.1"]
TENANTS = ["default", "acme", "spare"]


def choose(seed, known, share=0.7):
    """One of these now and then, the same for the same seed."""
    chance = random.Random(repr(seed))
    return chance.choice(known) if chance.random() < share else None


@schemathesis.hook
def map_path_parameters(context, parameters):
    names = CHAINS if "/chains" in context.operation.path else FUNCTIONS
    known = {"name": names, "version": VERSIONS, "tenant": TENANTS}
    if context.operation.method.upper() == "DELETE":
        known["name"] = ["spare"]
        known["tenant"] = ["spare"]
    for key in parameters or {}:
        if key in known and isinstance(parameters[key], str):
            parameters[key] = choose((key, parameters), known[key]) or parameters[key]
    return parameters


@schemathesis.hook
def map_query(context, query):
    for key, known in {"tenant": TENANTS[:2], "version": VERSIONS}.items():
        if isinstance((query or {}).get(key), str):
            query[key] = choose((key, query), known) or query[key]
    return query


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("to"), str) and "function" not in body:
        body["to"] = choose(body, VERSIONS) or body["to"]
    if isinstance(body.get("function"), list):
        # The functions that are there are for packets.
        if body.get("plane") in ("message", "both"):
            body["plane"] = "packet"
        for use in body["function"]:
            if isinstance(use, dict) and isinstance(use.get("use"), str):
                use["use"] = choose(use, FUNCTIONS) or use["use"]
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    path, method = context.operation.path, case.method.upper()
    if path == "/v1/events" and (case.query or {}).get("follow") in (None, "true", True):
        # A stream that is followed does not end.
        case.query = {**(case.query or {}), "follow": "false"}
    if method == "DELETE" and (case.path_parameters or {}).get("name") in ("edge", "gate"):
        case.path_parameters["name"] = "spare"
    if case.query and case.meta is not None and case.meta.phase.name.value == "stateful":
        # Whether what was deleted is gone is asked without a look at whose it was.
        case.query.pop("tenant", None)
    good = case.meta is None or case.meta.generation.mode.is_positive
    if path == "/v1/functions/{name}/versions" and method == "POST" and good:
        case.body = choose(case.path_parameters, UPLOADS, share=1)
    if path.endswith(("/swap", "/rollback")) and good and choose(case.path_parameters, [True]):
        case.path_parameters["name"] = "gate"
        case.query = {}
        if isinstance(case.body, dict):
            case.body["to"] = choose(case.body, VERSIONS, share=1)
    if good:
        # What is there changes all the time.
        for header in ("if-match", "if-none-match"):
            (case.headers or {}).pop(header, None)
    if path == "/v1/chains/{name}" and good:
        # Mostly the default tenant, which has functions.
        case.query = {} if choose(case.query, [True]) else case.query
        if method == "DELETE":
            case.path_parameters["name"] = "spare"
    if path == "/v1/chains/{name}" and method == "PUT" and good and isinstance(case.body, dict):
        # Path and body name the same chain, and what its functions may use is what there is.
        name = choose(case.body, CHAINS, share=1)
        case.path_parameters["name"] = case.body["name"] = name
        case.query = {}
        case.body.pop("tenant", None)
        uses = case.body.get("function", [])
        # The host has one worker.
        case.body.pop("workers", None)
        for number, use in enumerate(uses):
            use["use"] = "gate"
            use["name"] = f"f{number}"
            for limit in ("memory", "deadline", "timeout", "instances", "requests-per-instance", "instance-idle", "state", "state-shared", "per-worker", "version"):
                use.pop(limit, None)
        if name == "edge":
            uses = [{**uses[0], "use": "gate", "name": "gate"}]
            case.body.update({"from": "in", "to": "out", "function": uses})
        else:
            for key in ("from", "to", "steered"):
                case.body.pop(key, None)
    if path == "/v1/steering" and method == "PUT" and good and isinstance(case.body, dict):
        # Rules that packets can meet, for what there is; and few, so that traffic goes on.
        case.query = {}
        for number, rule in enumerate(case.body.get("rule", [])):
            rule.update({"vlan": 7, "to": "drop"})
            for key in ("port", "chain", "ethertype"):
                rule.pop(key, None)
            possible(rule, number)
    if path == "/v1/chains/{name}/trace" and good and isinstance(case.body, dict):
        case.body["seconds"] = 1
        case.body.pop("port", None)
        possible(case.body, 0)
    if path == "/v1/chains/{name}/tap" and good and isinstance(case.body, dict):
        case.body["seconds"] = 1
        case.body.pop("function", None)
        only = case.body.setdefault("only", {})
        only.pop("port", None)
        possible(only, 0)


def possible(rule, number):
    """Has a rule mean packets that there can be."""
    for key in ("src", "dst"):
        if isinstance(rule.get(key), str):
            rule[key] = choose((number, key), PREFIXES, share=1)
    for key in ("sport", "dport"):
        if isinstance(rule.get(key), str):
            rule[key] = "1024-65535"
        if rule.get(key):
            rule["proto"] = "tcp"


@schemathesis.hook
def after_call(context, case, response):
    ANSWERS.write(f"{case.method.upper()} {context.operation.path} {response.status_code}\n")
