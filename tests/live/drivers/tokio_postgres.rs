//! tokio-postgres: what the parent expects of a driver.

use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

use walhub_tests::client::{Endpoint, SqlServer};
use walhub_tests::hub::Hub;
use walhub_tests::scratch::Scratch;

use super::{LARGE_LEN, LARGE_PATTERN, Told, assert_committed, expected};

const EMIT: &str = "select pg_logical_emit_message($1, 'driver', $2::text)";

/// Connects; the connection is driven until the client is dropped.
async fn connect(endpoint: Endpoint, options: &str) -> Client {
    let mut config = Config::new();
    config.host(endpoint.host.to_string()).port(endpoint.port).user("postgres").dbname("postgres");
    let (client, connection) = config.options(options).connect(NoTls).await.expect("a connection");
    tokio::spawn(async move { connection.await.expect("the connection") });
    client
}

async fn emit(client: &Client, content: &str) -> Result<PgLsn, Error> {
    Ok(client.query_one(EMIT, &[&true, &content]).await?.get(0))
}

async fn show(client: &Client, name: &str) -> String {
    client.query_one(&format!("show {name}"), &[]).await.expect(name).get(0)
}

fn sqlstate<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("an error");
    error.code().expect("an error of the server's").code().to_owned()
}

async fn statements(client: &Client, positions: &mut Vec<(String, String)>) {
    for content in ["autocommit 1", "autocommit 2"] {
        let lsn = emit(client, content).await.expect(content);
        positions.push((content.to_owned(), lsn.to_string()));
    }
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let typed = client
        .prepare_typed("select pg_logical_emit_message(true, 'driver', $1)", &[Type::BYTEA])
        .await
        .expect("a statement");
    client.query_one(&typed, &[&bytes]).await.expect("every byte");
    let statement = client.prepare(EMIT).await.expect("a statement");
    assert_eq!(statement.params(), [Type::BOOL, Type::TEXT]);
    assert_eq!(*statement.columns()[0].type_(), Type::PG_LSN);
    for number in 0..20 {
        let content = format!("prepared {number}");
        client.query_one(&statement, &[&true, &content]).await.expect("a position");
    }
    emit(client, &LARGE_PATTERN.repeat(LARGE_LEN / LARGE_PATTERN.len())).await.expect("10 MB");
    pipelined(client, &statement).await;
}

/// All are sent before the first is answered: each future writes when it is first polled.
async fn pipelined(client: &Client, statement: &Statement) {
    let one = |number: usize| async move {
        let content = format!("pipelined {number}");
        let row = client.query_one(statement, &[&true, &content]).await.expect("a position");
        row.get::<_, PgLsn>(0)
    };
    let mut all: Vec<_> = (0..1000).map(|number| Box::pin(one(number))).collect();
    let mut positions = vec![None; all.len()];
    std::future::poll_fn(|context| {
        for (future, position) in all.iter_mut().zip(&mut positions) {
            if position.is_none()
                && let std::task::Poll::Ready(lsn) = future.as_mut().poll(context)
            {
                *position = Some(lsn);
            }
        }
        if positions.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    assert!(positions.is_sorted(), "a connection's statements run in their order");
}

async fn transactions(client: &mut Client) {
    let transaction = client.transaction().await.expect("a transaction");
    for content in ["in transaction 1", "in transaction 2"] {
        transaction.query_one(EMIT, &[&true, &content]).await.expect(content);
    }
    transaction.commit().await.expect("a commit");
    let transaction = client.transaction().await.expect("a transaction");
    transaction.query_one(EMIT, &[&true, &"never"]).await.expect("a position");
    // Dropped, it is rolled back.
    drop(transaction);
    let transaction = client.transaction().await.expect("a transaction");
    transaction.query_one(EMIT, &[&false, &"stays"]).await.expect("a position");
    transaction.query_one(EMIT, &[&true, &"never"]).await.expect("a position");
    assert_eq!(sqlstate(transaction.query("select nothing", &[]).await), "42703");
    assert_eq!(sqlstate(transaction.simple_query("select 1").await), "25P02");
    transaction.rollback().await.expect("a rollback");
    emit(client, "after the error").await.expect("a position");

    let mut transaction = client.build_transaction().read_only(false).start().await.expect("begin");
    let savepoint = transaction.savepoint("inner").await.expect("a savepoint");
    savepoint.query_one(EMIT, &[&true, &"never"]).await.expect("a position");
    savepoint.rollback().await.expect("a rollback");
    transaction.batch_execute("set local synchronous_commit = remote_apply").await.expect("set");
    transaction.query_one(EMIT, &[&true, &"set local"]).await.expect("a position");
    transaction.commit().await.expect("a commit");
}

async fn copies(client: &Client) {
    let copy = "copy walhub.messages (prefix, content) from stdin";
    let mut sink = pin!(client.copy_in::<_, Bytes>(copy).await.expect("a copy"));
    for number in 0..100 {
        sink.send(format!("driver\tcopied {number}\n").into()).await.expect("a row");
    }
    assert_eq!(sink.finish().await.expect("the end"), 100);
    // Dropped, it has copied nothing.
    let mut sink = Box::pin(client.copy_in::<_, Bytes>(copy).await.expect("a copy"));
    sink.send("driver\tnever\n".into()).await.expect("a row");
    drop(sink);
}

#[test]
fn tokio_postgres_commits_what_it_says() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").start(&scratch);
    let mut positions = Vec::new();
    let endpoint = hub.endpoint();
    let program = async {
        let mut client = connect(endpoint, "-c synchronous_commit=local").await;
        assert_eq!(show(&client, "synchronous_commit").await, "local");
        statements(&client, &mut positions).await;
        transactions(&mut client).await;
        assert_eq!(show(&client, "synchronous_commit").await, "local");
        copies(&client).await;
        assert_eq!(sqlstate(client.batch_execute("listen channel").await), "0A000");
        client.simple_query("select 1; select 2").await.expect("two results");
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime").block_on(program);
    let told: Vec<Told<'_>> =
        positions.iter().map(|(content, lsn)| Told::End { content, lsn }).collect();
    assert_committed(&mut hub, &expected(&[("copied", 100)], &[]), &told);
}
