//! By password: as it is, as a digest, or by SCRAM.
//!
//! PostgreSQL: `CheckPasswordAuth`, `CheckPWChallengeAuth`, `CheckMD5Auth` (src/backend/libpq/auth.c),
//! `get_role_password` (src/backend/libpq/crypt.c).

use std::hint::black_box;

use tokio::sync::Semaphore;
use walhub_proto::hba::Method;
use walhub_proto::password::{ScramSecret, Secret};
use walhub_proto::roles::Role;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use zeroize::Zeroizing;

use super::response::{Expected, Response};
use super::{Attempt, NotAuthenticated, Refusal, sasl};
use crate::placement::spawn_blocking;
use crate::settings::PasswordEncryption;
use crate::{clock, random};

/// Passwords that are compared with a secret of SCRAM at a time. Each takes a thread for milliseconds, the more the more
/// iterations a secret has: whoever tries passwords takes one thread and no more.
static COMPARING: Semaphore = Semaphore::const_new(1);

/// What a role's password is compared with, or why there is nothing, for the log. PostgreSQL: `get_role_password`.
pub(super) fn secret_of(role: Option<&Role>, user: &str) -> Result<Secret, String> {
    let role = role.ok_or_else(|| format!("Role \"{user}\" does not exist."))?;
    let text = role.password.as_deref();
    let text = text.ok_or_else(|| format!("User \"{user}\" has no password assigned."))?;
    if role.valid_until.is_some_and(|until| until < clock::now()) {
        return Err(format!("User \"{user}\" has an expired password."));
    }
    Ok(Secret::parse(text))
}

/// Asks for the password itself. PostgreSQL: `CheckPasswordAuth`.
pub(super) async fn in_clear(attempt: &mut Attempt<'_>) -> Result<String, NotAuthenticated> {
    attempt.connection.out.authentication_cleartext_password();
    let password = ask(attempt).await?;
    let role = attempt.role().await;
    let user = attempt.applicant.user.clone();
    let secret = secret_of(role.as_deref(), &user);
    let mock = attempt.mock();
    match compare(user.clone(), secret, mock, password).await {
        Ok(()) => Ok(user),
        Err(detail) => Err(attempt.failed(Some(detail)).into()),
    }
}

/// Whether the password is the one of the secret; the reason for the log if not. It takes as long whatever there is to
/// compare with.
async fn compare(
    user: String,
    secret: Result<Secret, String>,
    mock: ScramSecret,
    password: Zeroizing<Vec<u8>>,
) -> Result<(), String> {
    let place = COMPARING.acquire().await;
    let work = move || {
        let has_work = matches!(secret, Ok(Secret::ScramSha256(_)));
        let outcome = secret.and_then(|secret| match &secret {
            Secret::Plain(_) => {
                Err(format!("Password of user \"{user}\" is in unrecognized format."))
            }
            Secret::Md5(_) | Secret::ScramSha256(_) if secret.verify(&user, &password) => Ok(()),
            Secret::Md5(_) | Secret::ScramSha256(_) => does_not_match(&user),
        });
        if !has_work {
            black_box(mock.verify(&password));
        }
        // Whoever has left meanwhile has given up the place only now.
        drop(place);
        outcome
    };
    spawn_blocking(work).await.unwrap_or_else(|_| Err("The comparison was given up.".to_owned()))
}

fn does_not_match(user: &str) -> Result<(), String> {
    Err(format!("Password does not match for user \"{user}\"."))
}

/// Asks for a proof of the password, of the kind that the secret is. PostgreSQL: `CheckPWChallengeAuth`.
pub(super) async fn by_challenge(attempt: &mut Attempt<'_>) -> Result<String, NotAuthenticated> {
    let role = attempt.role().await;
    let secret = secret_of(role.as_deref(), &attempt.applicant.user);
    // Of a role without a secret it is said what most would have: password_encryption's.
    let encryption = attempt.services.settings().password_encryption;
    match (&secret, attempt.rule.method) {
        (Ok(Secret::Md5(_)), Method::Md5) => by_digest(attempt, secret).await,
        (Err(_), Method::Md5) if encryption == PasswordEncryption::Md5 => {
            by_digest(attempt, secret).await
        }
        _ => sasl::exchange(attempt, secret).await,
    }
}

/// Asks for a digest of secret and salt. PostgreSQL: `CheckMD5Auth`, `md5_crypt_verify`.
async fn by_digest(
    attempt: &mut Attempt<'_>,
    secret: Result<Secret, String>,
) -> Result<String, NotAuthenticated> {
    let salt = random::bytes();
    attempt.connection.out.authentication_md5_password(salt);
    let response = ask(attempt).await?;
    let user = &attempt.applicant.user;
    let outcome = match secret {
        Ok(Secret::Md5(secret)) if secret.verify_response(salt, &response) => Ok(()),
        Ok(_) => does_not_match(user),
        Err(detail) => Err(detail),
    };
    match outcome {
        Ok(()) => Ok(user.clone()),
        Err(detail) => Err(attempt.failed(Some(detail)).into()),
    }
}

/// The password that is sent, or its digest. PostgreSQL: `recv_password_packet`.
async fn ask(attempt: &mut Attempt<'_>) -> Result<Zeroizing<Vec<u8>>, NotAuthenticated> {
    let Response::Message(mut message) = attempt.ask(Expected::Password).await? else {
        return Err(NotAuthenticated::Left);
    };
    let refused = |sqlstate, message| Refusal::from(Report::fatal(sqlstate, message));
    // A string, and nothing after it.
    let end = message.iter().position(|&byte| byte == 0);
    if end.is_none_or(|end| end + 1 != message.len()) {
        let text = "invalid password packet size";
        return Err(refused(SqlState::PROTOCOL_VIOLATION, text).into());
    }
    message.pop();
    if message.is_empty() {
        let text = "empty password returned by client";
        return Err(refused(SqlState::INVALID_PASSWORD, text).into());
    }
    Ok(message)
}
