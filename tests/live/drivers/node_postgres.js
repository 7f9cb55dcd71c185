// node-postgres: what tests/live/drivers.rs expects of a driver.
//
// Run with host and port; prints "before CONTENT LSN" for messages whose place it was told. It asks
// for each answer with Flush before it ends the transaction with Sync, and until then a message is
// not in the WAL.

"use strict";

const assert = require("assert");
const { Client, Pool } = require("pg");

const [host, port] = [process.argv[2], Number(process.argv[3])];
const EMIT = "select pg_logical_emit_message($1, 'driver', $2) as lsn";
const LARGE = "0123456789abcdef".repeat(640 * 1024);
const settings = { host, port, user: "postgres", database: "postgres" };

async function connect(more) {
  const client = new Client({ ...settings, ...more });
  await client.connect();
  return client;
}

async function emit(client, content, transactional = true) {
  const result = await client.query(EMIT, [transactional, content]);
  return result.rows[0].lsn;
}

async function show(client, name) {
  return (await client.query(`show ${name}`)).rows[0][name];
}

async function refused(code, promise) {
  await assert.rejects(promise, (error) => {
    assert.strictEqual(error.code, code, error);
    return true;
  });
}

async function main() {
  let client = await connect({ application_name: "node-postgres" });
  for (const content of ["autocommit 1", "autocommit 2"]) {
    console.log("before", content, await emit(client, content));
  }
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await client.query("select pg_logical_emit_message(true, 'driver', $1::bytea)", [bytes]);
  for (let number = 0; number < 20; number++) {
    const query = { name: "emit", text: EMIT, values: [true, `prepared ${number}`] };
    assert.strictEqual((await client.query(query)).rows.length, 1);
  }
  await emit(client, LARGE);
  // Sent one after the other; the driver waits for each.
  const queued = Array.from({ length: 1000 }, (_, i) => emit(client, `pipelined ${i}`));
  assert.strictEqual(new Set(await Promise.all(queued)).size, 1000);

  await client.query("begin");
  await emit(client, "in transaction 1");
  await emit(client, "in transaction 2");
  await client.query("commit");
  await client.query("begin");
  await emit(client, "never");
  await client.query("rollback");
  await client.query("begin");
  await emit(client, "stays", false);
  await emit(client, "never");
  await refused("42703", client.query("select nothing"));
  await refused("25P02", emit(client, "never"));
  assert.strictEqual((await client.query("commit")).command, "ROLLBACK");
  await emit(client, "after the error");

  await client.query("set synchronous_commit = off");
  await client.query("begin");
  await client.query("set local synchronous_commit to remote_apply");
  assert.strictEqual(await show(client, "synchronous_commit"), "remote_apply");
  await emit(client, "set local");
  await client.query("commit");
  assert.strictEqual(await show(client, "synchronous_commit"), "off");
  await refused("0A000", client.query("listen channel"));
  const two = await client.query("select 1 as a; select 2 as b");
  assert.deepStrictEqual(two.map((result) => result.rows), [[{ a: 1 }], [{ b: 2 }]]);
  await client.end();

  client = await connect({ options: "-c synchronous_commit=local", statement_timeout: 60000 });
  assert.strictEqual(await show(client, "synchronous_commit"), "local");
  assert.strictEqual(await show(client, "statement_timeout"), "1min");
  await client.end();

  const pool = new Pool({ ...settings, max: 8 });
  const pooled = Array.from({ length: 100 }, (_, i) => emit(pool, `pool ${i}`));
  await Promise.all(pooled);
  await pool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
