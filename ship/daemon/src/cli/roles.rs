//! `walhub roles import`: copies the roles of a server to a running walhub, once.
//!
//! Not here: roles that are asked for at each login (`auth_query`).
//!
//! PostgreSQL: `dumpRoles`, `dumpRoleMembership` (src/bin/pg_dump/pg_dumpall.c).

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tokio::runtime;
use tokio::task::LocalSet;

use crate::net::connect::roles::{RemoteRole, all_roles};
use crate::net::connect::{
    Cause, ConnectOptions, Failure, SqlSession, connect_sql, parse_conninfo,
};

#[derive(Subcommand, Debug)]
pub(super) enum RolesCommand {
    /// Copy the roles of a server, with their passwords, attributes and memberships, to a running walhub.
    ///
    /// A role that walhub has already stays as it is.
    Import(ImportArgs),
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// Connection string of the server to copy from, as one of its superusers.
    #[arg(long, value_name = "CONNINFO")]
    from: String,
    /// Connection string of walhub, as one of its superusers; without it, where psql would connect.
    #[arg(long, value_name = "CONNINFO", default_value = "")]
    to: String,
}

/// What came of one role.
enum Copied {
    Created,
    /// It was there.
    Kept,
}

pub(super) fn run(command: &RolesCommand, out: &mut impl Write) -> ExitCode {
    let RolesCommand::Import(args) = command;
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let imported = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| LocalSet::new().block_on(&runtime, import(args, out)));
    match imported {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "walhub: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn import(args: &ImportArgs, out: &mut impl Write) -> Result<(), String> {
    let mut from = open(&args.from).await?;
    let roles = all_roles(&mut from).await.map_err(|cause| shown(cause, "read the roles"))?;
    drop(from);
    let mut to = open(&args.to).await?;
    let mut created = 0;
    for role in &roles {
        let name = &role.name;
        let copied = create(&mut to, role).await;
        match copied.map_err(|cause| shown(cause, &format!("create role \"{name}\"")))? {
            Copied::Created => {
                created += 1;
                let _ = writeln!(out, "role \"{name}\" created");
            }
            Copied::Kept => {
                let _ = writeln!(out, "role \"{name}\" exists already and stays as it is");
            }
        }
    }
    // A role may be a member of one that comes later.
    for role in &roles {
        for group in &role.member_of {
            let statement = format!("GRANT {} TO {}", identifier(group), identifier(&role.name));
            match to.query(&statement, &[]).await {
                Ok(_) => {}
                // A predefined role that walhub does not have.
                Err(Cause::Server { error, .. }) if error.sqlstate == "42704" => {
                    let _ = writeln!(out, "role \"{}\": {}", role.name, error.message);
                }
                Err(cause) => return Err(shown(cause, &format!("run {statement}"))),
            }
        }
    }
    let _ = writeln!(out, "{created} of {} roles created", roles.len());
    Ok(())
}

async fn open(conninfo: &str) -> Result<SqlSession, String> {
    let parsed = parse_conninfo(conninfo)
        .map_err(|error| format!("invalid connection string syntax: {error}"))?;
    let session = connect_sql(&parsed, "postgres", &ConnectOptions::default()).await;
    session.map_err(|error| error.to_string())
}

fn shown(cause: Cause, what: &str) -> String {
    format!("could not {what}: {}", Failure { target: None, cause })
}

async fn create(to: &mut SqlSession, role: &RemoteRole) -> Result<Copied, Cause> {
    match to.query(&statement(role), &[]).await {
        Ok(_) => Ok(Copied::Created),
        // duplicate_object
        Err(Cause::Server { error, .. }) if error.sqlstate == "42710" => Ok(Copied::Kept),
        Err(cause) => Err(cause),
    }
}

/// CREATE ROLE with all that the role has.
fn statement(role: &RemoteRole) -> String {
    let mut sql = format!("CREATE ROLE {}", identifier(&role.name));
    for (attribute, word) in [
        ("rolsuper", "SUPERUSER"),
        ("rolinherit", "INHERIT"),
        ("rolcreaterole", "CREATEROLE"),
        ("rolcreatedb", "CREATEDB"),
        ("rolcanlogin", "LOGIN"),
        ("rolreplication", "REPLICATION"),
        ("rolbypassrls", "BYPASSRLS"),
    ] {
        let no = if role.flag(attribute) { "" } else { "NO" };
        let _ = write!(sql, " {no}{word}");
    }
    if let Some(limit) = role.attribute("rolconnlimit") {
        let _ = write!(sql, " CONNECTION LIMIT {limit}");
    }
    if let Some(secret) = &role.secret {
        let _ = write!(sql, " PASSWORD {}", literal(secret));
    }
    if let Some(until) = role.attribute("rolvaliduntil") {
        let _ = write!(sql, " VALID UNTIL {}", literal(until));
    }
    sql
}

/// PostgreSQL: `fmtId`.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// PostgreSQL: `PQescapeLiteral`.
fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { " E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_made_with_all_that_it_has() {
        let text = |text: &str| Some(text.to_owned());
        let role = RemoteRole {
            name: "stand\"by".to_owned(),
            secret: text("it's \\"),
            attributes: vec![
                ("rolsuper".to_owned(), text("f")),
                ("rolcanlogin".to_owned(), text("t")),
                ("rolconnlimit".to_owned(), text("-1")),
                ("rolvaliduntil".to_owned(), text("2030-01-02 03:04:05+00")),
            ],
            member_of: Vec::new(),
        };
        assert_eq!(
            statement(&role),
            "CREATE ROLE \"stand\"\"by\" NOSUPERUSER NOINHERIT NOCREATEROLE NOCREATEDB LOGIN \
             NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1 PASSWORD  E'it''s \\\\' VALID UNTIL \
             '2030-01-02 03:04:05+00'"
        );
    }
}
