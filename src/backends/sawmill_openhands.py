"""An agent of the OpenHands SDK on the task that standard input says, with its events on standard output, one JSON object a line.

The model is what LLM_* variables say. Written by Sawmill for each run.
"""

import json
import os
import sys

# Standard output is for events; whatever a library prints there goes where it says the rest.
EVENTS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

# Its import tells of itself and of what is new.
os.environ["OPENHANDS_SUPPRESS_BANNER"] = "1"

from openhands.sdk import LLM, Agent, Conversation, Event, Tool  # noqa: E402
from openhands.tools.preset.default import get_default_condenser  # noqa: E402
from openhands.tools.file_editor import FileEditorTool  # noqa: E402
from openhands.tools.task_tracker import TaskTrackerTool  # noqa: E402
from openhands.tools.terminal import TerminalTool  # noqa: E402


def emit(event):
    EVENTS.write(json.dumps(event) + "\n")
    EVENTS.flush()


def response_headers(error):
    for source in (getattr(error, "litellm_response_headers", None), getattr(getattr(error, "response", None), "headers", None)):
        if source:
            return {str(name).lower(): str(value) for name, value in dict(source).items()}
    return {}


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def used(conversation, llm):
    metrics = conversation.conversation_stats.get_combined_metrics()
    tokens = metrics.accumulated_token_usage
    return {
        "model": llm.model,
        "cost": metrics.accumulated_cost,
        "prompt_tokens": tokens.prompt_tokens if tokens else 0,
        "completion_tokens": tokens.completion_tokens if tokens else 0,
    }


def main():
    llm = LLM.load_from_env()
    agent = Agent(
        llm=llm,
        # No tmux is needed for it.
        tools=[
            Tool(name=TerminalTool.name, params={"terminal_type": "subprocess"}),
            Tool(name=FileEditorTool.name),
            Tool(name=TaskTrackerTool.name),
        ],
        system_prompt_kwargs={"cli_mode": True},
        condenser=get_default_condenser(llm.model_copy(update={"usage_id": "condenser"})),
    )
    told = None

    def heard(event: Event):
        nonlocal told
        emit(event.model_dump(mode="json", exclude={"system_prompt", "tools"}))
        # The first events come while it is being made, before the model was asked.
        now = used(conversation, llm) if conversation else None
        if now != told:
            emit({"kind": "Usage", **now})
            told = now

    conversation = None
    conversation = Conversation(agent=agent, workspace=os.getcwd(), callbacks=[heard], visualizer=None)
    error = None
    try:
        conversation.send_message(sys.stdin.read())
        conversation.run()
    except Exception as raised:
        error = raised
    end = {"kind": "End", "status": conversation.state.execution_status.value, **used(conversation, llm)}
    if error is not None:
        # The one that knows most is the first that the provider's client raised.
        first = next((cause for cause in causes(error) if getattr(cause, "status_code", None)), error)
        end["error"] = {
            "message": str(first),
            "status": getattr(first, "status_code", None),
            "headers": response_headers(first),
        }
    emit(end)
    conversation.close()


main()
