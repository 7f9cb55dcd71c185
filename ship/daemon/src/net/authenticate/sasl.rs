//! By SCRAM-SHA-256. The work is the client's: here are three HMACs, whoever it is.
//!
//! PostgreSQL: `CheckSASLAuth` (src/backend/libpq/auth-sasl.c).

use walhub_proto::password::Secret;
use walhub_proto::scram::{
    Credential, Exchange, InitialResponse, ScramViolation, Step, mechanisms,
};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::reader::Malformed;

use super::response::{Expected, Response};
use super::{Attempt, NotAuthenticated, Refusal};
use crate::random;

/// Has the client prove that it knows the password; `secret` is what there is to compare with, or why there is nothing.
pub(super) async fn exchange(
    attempt: &mut Attempt<'_>,
    secret: Result<Secret, String>,
) -> Result<String, NotAuthenticated> {
    let user = attempt.applicant.user.clone();
    let mock = || Credential::Mock(attempt.mock());
    let (credential, detail) = match secret {
        Ok(Secret::ScramSha256(secret)) => (Credential::Secret(secret), None),
        Ok(Secret::Md5(_) | Secret::Plain(_)) => {
            (mock(), Some(format!("User \"{user}\" does not have a valid SCRAM secret.")))
        }
        Err(detail) => (mock(), Some(detail)),
    };
    let tls = attempt.connection.tls.clone();
    let end_point = tls.as_ref().map(|tls| &tls.server_end_point[..]);
    let end_point = end_point.filter(|hash| !hash.is_empty());
    attempt.connection.out.authentication_sasl(&mechanisms(end_point));
    let Response::Message(message) = attempt.ask(Expected::Sasl).await? else {
        return Err(attempt.failed(detail).into());
    };
    let initial = InitialResponse::decode(&message).map_err(malformed)?;
    let mut exchange = Exchange::new(initial.mechanism, end_point, credential, &random::bytes())
        .map_err(refused)?;
    let mut step = exchange.handle(initial.data).map_err(refused)?;
    loop {
        match step {
            Step::Continue(reply) => {
                attempt.connection.out.authentication_sasl_continue(&reply);
            }
            Step::Success(reply) => {
                attempt.connection.out.authentication_sasl_final(&reply);
                return Ok(user);
            }
            Step::Failure => return Err(attempt.failed(detail).into()),
        }
        let Response::Message(message) = attempt.ask(Expected::Sasl).await? else {
            return Err(attempt.failed(detail).into());
        };
        step = exchange.handle(Some(&message)).map_err(refused)?;
    }
}

fn refused(violation: ScramViolation) -> Refusal {
    violation.report().into()
}

fn malformed(rule: Malformed) -> Refusal {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, rule.to_string()).into()
}
