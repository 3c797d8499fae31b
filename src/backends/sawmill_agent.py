"""Mini-SWE-agent with its messages written to standard output, one JSON object a line. Written by Sawmill for each run."""

import json
import sys

from minisweagent.agents.default import DefaultAgent


def emit(event):
    sys.stdout.write(json.dumps({"sawmill": 1, **event}) + "\n")
    sys.stdout.flush()


def response_headers(error):
    for source in (getattr(error, "litellm_response_headers", None), getattr(getattr(error, "response", None), "headers", None)):
        if source:
            return {str(name).lower(): str(value) for name, value in dict(source).items()}
    return {}


class Agent(DefaultAgent):
    def add_messages(self, *messages):
        for message in messages:
            extra = message.get("extra") or {}
            response = extra.get("response")
            content = message.get("content")
            emit(
                {
                    "type": "message",
                    "role": message.get("role"),
                    "content": content if isinstance(content, str) else "",
                    "actions": [action.get("command", "") for action in extra.get("actions") or []],
                    "output": extra.get("raw_output"),
                    "returncode": extra.get("returncode"),
                    "exception": extra.get("exception_info"),
                    "cost": extra.get("cost"),
                    "model": response.get("model") if isinstance(response, dict) else None,
                    "usage": response.get("usage") if isinstance(response, dict) else None,
                    "exit_status": extra.get("exit_status"),
                    "submission": extra.get("submission"),
                }
            )
        return super().add_messages(*messages)

    def run(self, task="", **kwargs):
        try:
            return super().run(task, **kwargs)
        except Exception:
            # It has been told as an event; a traceback of a page would only hide that.
            raise SystemExit(1) from None

    def handle_uncaught_exception(self, error):
        emit(
            {
                "type": "error",
                "kind": type(error).__name__,
                "message": str(error),
                "status": getattr(error, "status_code", None),
                "headers": response_headers(error),
            }
        )
        return super().handle_uncaught_exception(error)

    def save(self, path, *extra):
        """Every message is in the events; the trajectory would be written anew with each of them."""
        return {}
