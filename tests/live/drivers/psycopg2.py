"""psycopg2: what tests/live/drivers.rs expects of a driver, and its replication connection.

Run with host and port; prints "position CONTENT LSN" for messages whose place it was told.
"""

import io
import select
import sys

import psycopg2
import psycopg2.extras

HOST, PORT = sys.argv[1], sys.argv[2]
EMIT = "select pg_logical_emit_message(%s, 'driver', %s)"
LARGE = "0123456789abcdef" * (640 * 1024)


def connect(**settings):
    return psycopg2.connect(
        host=HOST, port=PORT, user="postgres", dbname="postgres", **settings
    )


def one(conn, sql, arguments=None):
    with conn.cursor() as cursor:
        cursor.execute(sql, arguments)
        return cursor.fetchone()[0]


def run(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)


def emit(conn, content, transactional=True):
    return one(conn, EMIT, (transactional, content))


def refused(sqlstate, conn, sql):
    try:
        run(conn, sql)
    except psycopg2.Error as error:
        assert error.pgcode == sqlstate, (error.pgcode, error)
    else:
        raise AssertionError(f"there should be error {sqlstate}")


conn = connect()
conn.autocommit = True
for content in ("autocommit 1", "autocommit 2"):
    print("position", content, emit(conn, content))
emit(conn, bytes(range(256)))
for number in range(20):
    emit(conn, f"prepared {number}")
emit(conn, LARGE)
with conn.cursor() as cursor:
    cursor.executemany(EMIT, [(True, f"many {i}") for i in range(50)])
    psycopg2.extras.execute_batch(
        cursor, EMIT, [(True, f"pipelined {i}") for i in range(1000)]
    )

conn.autocommit = False
emit(conn, "in transaction 1")
emit(conn, "in transaction 2")
conn.commit()
emit(conn, "never")
conn.rollback()
emit(conn, "stays", False)
emit(conn, "never")
refused("42703", conn, "select nothing")
refused("25P02", conn, "select 1")
conn.rollback()
with conn:
    emit(conn, "after the error")
    run(conn, "savepoint inner_block")
    emit(conn, "never")
    run(conn, "rollback to savepoint inner_block")
    run(conn, "release savepoint inner_block")

with conn, conn.cursor() as cursor:
    rows = "".join(f"driver\tcopied {i}\n" for i in range(100))
    cursor.copy_expert(
        "copy walhub.messages (prefix, content) from stdin", io.StringIO(rows)
    )
    rows = "".join(f'driver,"copied csv {i}"\n' for i in range(100))
    cursor.copy_expert(
        "copy walhub.messages (prefix, content) from stdin with (format csv)",
        io.StringIO(rows),
    )
conn.close()

# The levels that psycopg2 sets are all one to a hub; those of a session are begun with BEGIN.
conn = connect(options="-c synchronous_commit=local")
conn.set_session(isolation_level="SERIALIZABLE")
assert one(conn, "show synchronous_commit") == "local"
run(conn, "set local synchronous_commit = remote_apply")
assert one(conn, "show synchronous_commit") == "remote_apply"
emit(conn, "set local")
conn.commit()
assert one(conn, "show synchronous_commit") == "local"
conn.set_client_encoding("UTF8")
conn.close()

# A replication connection, as pg_receivewal has one.
conn = connect(connection_factory=psycopg2.extras.PhysicalReplicationConnection)
cursor = conn.cursor()
cursor.execute("IDENTIFY_SYSTEM")
system, timeline, end, database = cursor.fetchone()
assert int(system) > 0 and timeline == 1 and database is None
cursor.create_replication_slot("psycopg2")
cursor.start_replication(slot_name="psycopg2", start_lsn=end)
message = cursor.read_message()
writer = connect()
writer.autocommit = True
emit(writer, "streamed")
received = b""
while b"streamed" not in received:
    message = cursor.read_message()
    if message is None:
        assert select.select([cursor], [], [], 60)[0], "nothing is streamed"
    else:
        received += message.payload
        cursor.send_feedback(flush_lsn=message.data_start + len(message.payload))
conn.close()
