"""psycopg 3: what tests/live/drivers.rs expects of a driver, and what only this one has.

Run with host and port; prints "position CONTENT LSN" for messages whose place it was told.
"""

import sys

import psycopg
from psycopg import errors

HOST, PORT = sys.argv[1], sys.argv[2]
EMIT = "select pg_logical_emit_message(%s, 'driver', %s)"
LARGE = "0123456789abcdef" * (640 * 1024)


def connect(**settings):
    return psycopg.connect(
        host=HOST, port=PORT, user="postgres", dbname="postgres", **settings
    )


def emit(conn, content, transactional=True):
    (lsn,) = conn.execute(EMIT, (transactional, content)).fetchone()
    return lsn


def show(conn, name):
    (value,) = conn.execute(f"show {name}").fetchone()
    return value


def refused(sqlstate, run):
    try:
        run()
    except psycopg.Error as error:
        assert error.sqlstate == sqlstate, (error.sqlstate, error)
    else:
        raise AssertionError(f"there should be error {sqlstate}")


# Each statement its own transaction.
with connect(autocommit=True) as conn:
    for content in ("autocommit 1", "autocommit 2"):
        print("position", content, emit(conn, content))
    conn.execute(
        "select pg_logical_emit_message(true, 'driver', %b::bytea)", (bytes(range(256)),)
    )
    # Binary results, and a statement that the driver prepares by itself.
    for number in range(20):
        cursor = conn.execute(
            EMIT, (True, f"prepared {number}"), prepare=True, binary=True
        )
        assert len(cursor.fetchone()[0]) in (8, 10), "a position"
    emit(conn, LARGE)
    conn.cursor().executemany(EMIT, [(True, f"many {i}") for i in range(50)])

# The driver begins a transaction with the first statement.
with connect() as conn:
    emit(conn, "in transaction 1")
    emit(conn, "in transaction 2")
    conn.commit()
    emit(conn, "never")
    conn.rollback()
    emit(conn, "stays", False)
    emit(conn, "never")
    refused("42703", lambda: conn.execute("select nothing"))
    refused("25P02", lambda: emit(conn, "never"))
    refused("25P02", lambda: conn.execute("select 1"))
    conn.rollback()
    emit(conn, "after the error")

# Nested blocks are savepoints.
with connect(autocommit=True) as conn:
    with conn.transaction():
        emit(conn, "outer block")
        with conn.transaction():
            emit(conn, "inner block")
        try:
            with conn.transaction():
                emit(conn, "never")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        try:
            with conn.transaction():
                emit(conn, "never")
                conn.execute("select nothing")
        except errors.UndefinedColumn:
            pass
        emit(conn, "outer block after them")
    with conn.transaction(force_rollback=True):
        emit(conn, "never")

with connect(autocommit=True) as conn:
    with conn.pipeline():
        cursors = [conn.execute(EMIT, (True, f"pipelined {i}")) for i in range(1000)]
    positions = [cursor.fetchone()[0] for cursor in cursors]
    assert len(set(positions)) == 1000
    # An error in a pipeline ends what was sent before the next synchronization.
    try:
        with conn.pipeline() as pipeline:
            conn.execute(EMIT, (True, "before the pipeline's error"))
            pipeline.sync()
            conn.execute("select nothing")
            conn.execute(EMIT, (True, "never"))
    except errors.UndefinedColumn:
        pass
    with conn.pipeline(), conn.transaction():
        emit(conn, "pipelined transaction")

# How long a commit waits.
with connect(autocommit=True, options="-c synchronous_commit=local") as conn:
    assert show(conn, "synchronous_commit") == "local"
    conn.execute("set synchronous_commit = off")
    assert show(conn, "synchronous_commit") == "off"
    emit(conn, "not waited for")
    with conn.transaction():
        conn.execute("set local synchronous_commit to remote_apply")
        assert show(conn, "synchronous_commit") == "remote_apply"
        emit(conn, "set local")
    assert show(conn, "synchronous_commit") == "off"
    refused("22023", lambda: conn.execute("set synchronous_commit = perhaps"))
    conn.execute("select set_config('synchronous_commit', %s, false)", ("remote_write",))
    assert show(conn, "synchronous_commit") == "remote_write"

COPY = "copy walhub.messages (prefix, content) from stdin"
with connect() as conn:
    with conn.cursor().copy(COPY) as copy:
        for number in range(100):
            copy.write_row(("driver", f"copied {number}"))
    with conn.cursor().copy(COPY + " (format binary)") as copy:
        copy.set_types(["text", "bytea"])
        for number in range(100):
            copy.write_row(("driver", f"copied binary {number}".encode()))
    conn.commit()
    try:
        with conn.cursor().copy(COPY) as copy:
            copy.write_row(("driver", "never"))
            raise ZeroDivisionError
    except errors.QueryCanceled as error:
        assert "ZeroDivisionError" in str(error), error
    conn.rollback()

# What there is not is refused, and the session goes on.
with connect(autocommit=True) as conn:
    refused("0A000", lambda: conn.execute("listen channel"))
    refused("0A000", lambda: conn.execute("notify channel"))
    with conn.transaction():
        refused("0A000", lambda: conn.execute("declare c cursor for select 1"))
        conn.execute("rollback")
