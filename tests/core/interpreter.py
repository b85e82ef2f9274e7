"""A small language with functions, recursion and try, on a machine that keeps call frames of its own.

Programs are written as lists: ``(def fact (n) (if (< n 2) 1 (* n (fact (- n 1)))))``. They are compiled to
instructions and run on a stack of frames, without recursion in Python; the machine tells a `StepHost` of each frame
that comes and goes. `evaluate` runs the same programs by plain recursion under the decorators instead.
"""

import operator
import re
from dataclasses import dataclass, field

import stepwarden as sw
from stepwarden.host import Returned


class ThrownError(Exception):
    """What ``(throw x)`` raises."""


OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "<": operator.lt, "=": operator.eq}


def read(text):
    """Read a program: a list of definitions."""
    stack = [[]]
    for word in re.findall(r"[()]|[^\s()]+", text):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = tuple(stack.pop())
            stack[-1].append(done)
        else:
            stack[-1].append(int(word) if word.lstrip("-").isdigit() else word)
    return stack[0]


@dataclass
class Function:
    """A compiled function."""

    name: str
    parameters: tuple
    body: tuple
    code: list


def load(text):
    """Read and compile a program; return its functions by name."""
    return compiled(read(text))


def compiled(definitions):
    """Compile what `read` returns."""
    functions = {}
    for _, name, parameters, *body in definitions:
        whole = ("do", *body)
        code = []
        compile_into(code, whole)
        functions[name] = Function(name, parameters, whole, [*code, ("return",)])
    return functions


def compile_into(code, expression):
    """Append the instructions of an expression, which leave its value on the frame's stack."""
    match expression:
        case int():
            code.append(("constant", expression))
        case str():
            code.append(("load", expression))
        case ("do", *body):
            code.append(("constant", None))
            for part in body:
                code.append(("drop",))
                compile_into(code, part)
        case ("let", name, value):
            compile_into(code, value)
            code.append(("store", name))
        case ("if", condition, yes, no):
            compile_into(code, condition)
            choice = len(code)
            code.append(None)
            compile_into(code, yes)
            end = len(code)
            code.append(None)
            code[choice] = ("jump_unless", len(code))
            compile_into(code, no)
            code[end] = ("jump", len(code))
        case ("try", body, handler):
            start = len(code)
            code.append(None)
            compile_into(code, body)
            code.append(("end_try",))
            end = len(code)
            code.append(None)
            code[start] = ("try", len(code))
            compile_into(code, handler)
            code[end] = ("jump", len(code))
        case (name, *arguments):
            for argument in arguments:
                compile_into(code, argument)
            code.append(("call", name, len(arguments)))


@dataclass
class CallFrame:
    """One call that is under way."""

    function: Function
    names: dict
    at: int = 0
    stack: list = field(default_factory=list)
    handlers: list = field(default_factory=list)


class Machine:
    """Run a program on frames of its own, and tell the host of each that comes and goes."""

    def __init__(self, program, host, natives):
        self.program = program
        self.host = host
        self.natives = natives
        self.frames = []

    def call(self, name, *arguments):
        """Call a function of the program; also from a native function that the program calls."""
        running = self.steps(name, *arguments)
        while True:
            try:
                next(running)
            except StopIteration as done:
                return done.value

    def steps(self, name, *arguments):
        """Call a function of the program, one instruction at a time."""
        floor = len(self.frames)
        self.enter(name, arguments)
        while True:
            frame = self.frames[-1]
            instruction = frame.function.code[frame.at]
            frame.at += 1
            try:
                returned = self.execute(frame, *instruction)
            except Exception as error:
                returned = self.unwind(error, floor)
            if returned is not None:
                if len(self.frames) == floor:
                    return returned.value
                self.frames[-1].stack.append(returned.value)
            yield

    def enter(self, name, arguments):
        """Push a frame."""
        function = self.program[name]
        self.frames.append(CallFrame(function, dict(zip(function.parameters, arguments, strict=True))))
        depth = len(self.frames)
        self.host.push_persona(name, depth)
        self.host.push_step(name, depth, tuple(arguments))

    def leave(self, error=None):
        """Pop a frame."""
        self.frames.pop()
        self.host.prune_below_frame(len(self.frames), error)

    def execute(self, frame, operation, *operands):
        """Execute one instruction; return what a frame that ended with it returned."""
        stack = frame.stack
        match operation, *operands:
            case "constant", value:
                stack.append(value)
            case "load", name:
                stack.append(frame.names[name])
            case "store", name:
                frame.names[name] = stack[-1]
            case ("drop",):
                stack.pop()
            case "jump_unless", target:
                frame.at = frame.at if stack.pop() else target
            case "jump", target:
                frame.at = target
            case "try", target:
                frame.handlers.append((target, len(stack)))
            case ("end_try",):
                frame.handlers.pop()
            case "call", name, count:
                arguments = [stack.pop() for _ in range(count)][::-1]
                if name in self.program:
                    self.enter(name, arguments)
                else:
                    stack.append(native(self, name, arguments))
            case ("return",):
                self.leave()
                return Returned(stack.pop())
        return None

    def unwind(self, error, floor):
        """Go on at the innermost handler, or with what a boundary returns; raise what reaches the floor."""
        while len(self.frames) > floor:
            frame = self.frames[-1]
            if frame.handlers:
                frame.at, height = frame.handlers.pop()
                del frame.stack[height:]
                return None
            depth = len(self.frames)
            outcome = self.host.apply_error_boundary(error, depth)
            if isinstance(outcome, Returned):
                self.leave()
                return outcome
            error = outcome.error
            self.host.pop_and_record(depth, "failed", error)
            self.leave(error)
        raise error


class Recursion:
    """Run a program by recursion in Python, with its functions decorated."""

    def __init__(self, program, natives, steps, personas):
        self.natives = natives
        self.program = {name: self.decorated(one, steps, personas) for name, one in program.items()}

    def decorated(self, function, steps, personas):
        """Return a function of the program as one of Python."""

        def call(*arguments):
            return self.evaluate(function.body, dict(zip(function.parameters, arguments, strict=True)))

        call.__name__ = function.name
        if function.name in steps:
            call = sw.step_from_dict(call, steps[function.name])
        if function.name in personas:
            call = sw.persona_from_dict(call, personas[function.name])
        return call

    def call(self, name, *arguments):
        """Call a function of the program; also from a native function that the program calls."""
        return self.program[name](*arguments)

    def evaluate(self, expression, names):
        """Return the value of an expression."""
        match expression:
            case int():
                value = expression
            case str():
                value = names[expression]
            case ("do", *body):
                value = None
                for part in body:
                    value = self.evaluate(part, names)
            case ("let", name, value):
                value = names[name] = self.evaluate(value, names)
            case ("if", condition, yes, no):
                value = self.evaluate(yes if self.evaluate(condition, names) else no, names)
            case ("try", body, handler):
                try:
                    value = self.evaluate(body, names)
                except Exception:
                    value = self.evaluate(handler, names)
            case (name, *arguments):
                values = [self.evaluate(argument, names) for argument in arguments]
                value = self.call(name, *values) if name in self.program else native(self, name, values)
        return value


def native(machine, name, arguments):
    """Call what is written in Python."""
    if name == "throw":
        raise ThrownError(*arguments)
    if name in OPERATORS:
        return OPERATORS[name](*arguments)
    return machine.natives[name](machine, *arguments)


def spend(machine, tokens):
    """Record a call of this many output tokens."""
    sw.record_usage("m", output_tokens=tokens, cost_usd=0)
    return tokens


def reserve(machine, tokens):
    """Reserve a call, and settle it to half of what was granted; return that."""
    with sw.reserve(output_tokens=tokens, cost_usd=0) as hold:
        used = hold.output_tokens // 2
        hold.settle(output_tokens=used)
    return used


NATIVES = {"spend": spend, "reserve": reserve}
