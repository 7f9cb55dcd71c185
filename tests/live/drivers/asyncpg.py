"""asyncpg: what tests/live/drivers.rs expects of a driver.

Run with host and port; prints "position CONTENT LSN" for messages whose place it was told.
"""

import asyncio
import sys

import asyncpg

HOST, PORT = sys.argv[1], int(sys.argv[2])
EMIT = "select pg_logical_emit_message($1, 'driver', $2::text)"
EMIT_BYTES = "select pg_logical_emit_message(true, 'driver', $1::bytea)"
LARGE = "0123456789abcdef" * (640 * 1024)


def connect(**settings):
    return asyncpg.connect(
        host=HOST, port=PORT, user="postgres", database="postgres", **settings
    )


async def refused(kind, awaitable):
    try:
        await awaitable
    except kind:
        pass
    else:
        raise AssertionError(f"there should be {kind}")


async def main():
    conn = await connect()
    for content in ("autocommit 1", "autocommit 2"):
        lsn = await conn.fetchval(EMIT, True, content)
        # asyncpg gives a pg_lsn as a number.
        print("position", content, f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}")
    await conn.execute(EMIT_BYTES, bytes(range(256)))
    statement = await conn.prepare(EMIT)
    assert [kind.name for kind in statement.get_parameters()] == ["bool", "text"]
    assert statement.get_attributes()[0].type.name == "pg_lsn"
    for number in range(20):
        await statement.fetchval(True, f"prepared {number}")
    await conn.execute(EMIT, True, LARGE)
    # One transaction, sent as one pipeline.
    await conn.executemany(EMIT, [(True, f"pipelined {i}") for i in range(1000)])
    await refused(
        asyncpg.PostgresError,
        conn.executemany(
            "select pg_logical_emit_message(true, 'driver', 'never'), 1 / $1::int",
            [(2,), (1,), (0,)],
        ),
    )

    async with conn.transaction():
        await conn.execute(EMIT, True, "in transaction 1")
        await conn.execute(EMIT, True, "in transaction 2")
    transaction = conn.transaction(isolation="serializable")
    await transaction.start()
    await conn.execute(EMIT, True, "never")
    await transaction.rollback()
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute(EMIT, False, "stays")
    await conn.execute(EMIT, True, "never")
    await refused(asyncpg.UndefinedColumnError, conn.fetch("select nothing"))
    await refused(asyncpg.InFailedSQLTransactionError, conn.fetch("select 1"))
    await transaction.rollback()
    await conn.execute(EMIT, True, "after the error")
    async with conn.transaction():
        await conn.execute(EMIT, True, "outer block")
        inner = conn.transaction()
        await inner.start()
        await conn.execute(EMIT, True, "never")
        await inner.rollback()

    rows = [("driver", f"copied {i}".encode()) for i in range(100)]
    tag = await conn.copy_records_to_table(
        "messages", schema_name="walhub", columns=["prefix", "content"], records=rows
    )
    assert tag == "COPY 100", tag

    async def lines():
        for number in range(100):
            yield f"driver,copied csv {number}\n".encode()

    tag = await conn.copy_to_table(
        "messages",
        schema_name="walhub",
        columns=["prefix", "content"],
        source=lines(),
        format="csv",
    )
    assert tag == "COPY 100", tag

    await conn.execute("set synchronous_commit = off")
    assert await conn.fetchval("show synchronous_commit") == "off"
    async with conn.transaction():
        await conn.execute("set local synchronous_commit to remote_apply")
        assert await conn.fetchval("show synchronous_commit") == "remote_apply"
        await conn.execute(EMIT, True, "set local")
    assert await conn.fetchval("show synchronous_commit") == "off"
    await refused(asyncpg.FeatureNotSupportedError, conn.execute("listen channel"))
    assert (await conn.fetchval("select 1")) == 1
    # What it has copied, read back in binary.
    read = "select content from walhub.messages where prefix = $1 order by lsn"
    contents = [row["content"] for row in await conn.fetch(read, "driver")]
    assert contents.count(b"copied 99") == 1 and b"never" not in contents
    # Types that it must ask the server for.
    await conn.fetch("select * from pg_stat_replication")
    await conn.fetch("select * from pg_stat_activity")
    await conn.close()

    conn = await connect(server_settings={"synchronous_commit": "local"})
    assert await conn.fetchval("show synchronous_commit") == "local"
    await conn.close()

    # A pool resets each connection that comes back.
    async with asyncpg.create_pool(
        host=HOST, port=PORT, user="postgres", database="postgres", min_size=4, max_size=4
    ) as pool:
        await asyncio.gather(
            *(pool.execute(EMIT, True, f"pool {i}") for i in range(100))
        )


asyncio.run(main())
