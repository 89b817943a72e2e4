//! Converts a failed request to a [`StoreError`], whose kind and hint state what to do.
//!
//! The codes are those of OSS and S3, which are mostly the same. They come as typed values from
//! [`answer`](super::server_answer); no message is searched for them.
//!
//! The kind decides what happens next. `Unavailable` is tried again for as long as it takes; it
//! covers 5xx, throttling, conflicts of concurrent requests, and requests without an answer.
//! `Denied` ends the run: a key, a policy, a bucket or an endpoint is wrong, and the hint names
//! which. `Exists` and `NotFound` are answers that callers decide about.

use std::error::Error as _;
use std::fmt;

use opendal::{Error, ErrorKind};

use super::super::{StoreError, StoreErrorKind};
use super::client::LookupFailed;
use super::server_answer::{NoCredentials, NotAStore, RefusedRequest, cause};
use super::sign::SignedService;

/// Returns the store error for an error of opendal. `what` names the operation and its object, as
/// in "put KEY". An error whose request may have been carried out is marked as indeterminate.
pub fn describe(service: SignedService, what: &str, error: &Error) -> StoreError {
    if let Some(missing) = cause::<NoCredentials>(error) {
        return no_credentials(service, what, missing);
    }
    if let Some(refusal) = cause::<RefusedRequest>(error) {
        return refused(service, what, refusal);
    }
    if let Some(answer) = cause::<NotAStore>(error) {
        return elsewhere(service, what, answer);
    }
    match error.kind() {
        ErrorKind::NotFound => {
            StoreError::new(StoreErrorKind::NotFound, format!("cannot {what}: there is none"))
        }
        ErrorKind::ConfigInvalid | ErrorKind::Unsupported => {
            let message = format!("cannot {what}: {}", error.message());
            StoreError::new(StoreErrorKind::Denied, message)
        }
        _ => unanswered(service, what, error),
    }
}

/// Returns the error for a refused request, by its code where the code is known, and else by its
/// HTTP status.
fn refused(service: SignedService, what: &str, refusal: &RefusedRequest) -> StoreError {
    let code = refusal.code.as_str();
    if let Some(hint) = refusal_hint(service, code) {
        let message = format!("cannot {what}: the store refuses with {refusal}");
        return StoreError::new(StoreErrorKind::Denied, message).hint(hint);
    }
    let message = format!("cannot {what}: the store answers {refusal}");
    let of = |kind| StoreError::new(kind, message.clone());
    match (refusal.status.as_u16(), code) {
        (_, "FileAlreadyExists" | "FileImmutable" | "PreconditionFailed") => {
            of(StoreErrorKind::Exists)
        }
        _ if refusal.is_transient() => of(StoreErrorKind::Unavailable).indeterminate(),
        // Only requests that create an object are conditional.
        (412, _) => of(StoreErrorKind::Exists),
        (404, _) => of(StoreErrorKind::NotFound),
        (401 | 403, code) => {
            let reason =
                if code.is_empty() { format!("({refusal})") } else { format!("with {refusal}") };
            let message = format!("cannot {what}: the store refuses {reason}");
            StoreError::new(StoreErrorKind::Denied, message)
                .hint("check the credentials, their policy, and the bucket's name in --to")
        }
        (300..=399, _) => elsewhere(service, what, &format!("the store answers {refusal}")),
        (400..=499 | 501, _) => of(StoreErrorKind::Denied)
            .hint("see the store's documentation for this code; check --to and the endpoint"),
        _ => of(StoreErrorKind::Unavailable).indeterminate(),
    }
}

/// Returns the error for an answer that does not come from the store, as from a captive portal, a
/// proxy, or a server under a wrong address: `Denied`.
fn elsewhere(service: SignedService, what: &str, answer: &dyn fmt::Display) -> StoreError {
    let flag = service.endpoint_flag();
    StoreError::new(StoreErrorKind::Denied, format!("cannot {what}: {answer}"))
        .hint(format!("it leads elsewhere: check {flag}, and a proxy in the environment"))
}

/// Returns the error for a request that could not be signed: `Denied`, with the places that were
/// searched for credentials.
fn no_credentials(service: SignedService, what: &str, missing: &NoCredentials) -> StoreError {
    let (name, hint) = match service {
        SignedService::Oss => (
            "OSS",
            "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET (and OSS_SESSION_TOKEN for STS), or \
             run `aliyun configure`",
        ),
        SignedService::S3 => (
            "AWS",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or run \
             `aws configure`",
        ),
    };
    let message = format!("cannot {what}: no usable {name} credentials; tried {}", missing.tried);
    StoreError::new(StoreErrorKind::Denied, message).hint(hint)
}

/// Returns the error for a request without an answer: `Unavailable`, except for a certificate that
/// is not trusted.
fn unanswered(service: SignedService, what: &str, error: &Error) -> StoreError {
    let endpoint = service.endpoint_flag();
    let message = format!("cannot {what}: {}", root_cause(error));
    if let Some(rustls::Error::InvalidCertificate(_)) = cause(error) {
        return StoreError::new(StoreErrorKind::Denied, message)
            .hint("give --ca-file the certificate of whoever signed the store's");
    }
    let failed = StoreError::new(StoreErrorKind::Unavailable, message).indeterminate();
    match cause::<LookupFailed>(error) {
        Some(_) => failed.hint(format!("check the host in {endpoint} and the name server")),
        // A wrong host may be the reason that nothing answers.
        None => {
            failed.hint(format!("check the network, {endpoint}, and a proxy in the environment"))
        }
    }
}

/// Returns the hint for a refusal that a retry does not cure, by its code; `None` for any other
/// code. Some codes mean different things to the two services.
fn refusal_hint(service: SignedService, code: &str) -> Option<&'static str> {
    let oss = service == SignedService::Oss;
    Some(match code {
        "InvalidAccessKeyId" | "UserDisable" => {
            "the access key is unknown or disabled: check the credentials"
        }
        "SignatureDoesNotMatch" => {
            "the secret does not belong to the access key: check the credentials"
        }
        "InvalidSecurityToken" | "InvalidToken" | "SecurityTokenExpired" | "ExpiredToken" => {
            "the security token is wrong or has expired: get new temporary credentials"
        }
        "SecurityTokenNotSupported" => "this bucket takes no temporary credentials",
        "AccessDenied" if oss => {
            "allow these credentials to put, get, list and delete below the prefix, and check the \
             bucket's policy; if the bucket is in another region, give its own --oss-endpoint and \
             --oss-region"
        }
        "AccessDenied" | "AllAccessDisabled" => {
            "allow these credentials to put, get, list and delete below the prefix, and check the \
             bucket's policy"
        }
        "RequestTimeTooSkewed" => {
            "check the clock of this machine: it differs from the store's by more than 15 minutes"
        }
        "NoSuchBucket" if oss => {
            "check the bucket's name in --to and its region in --oss-endpoint; create it if it is new"
        }
        "NoSuchBucket" => "check the bucket's name in --to; create it if it is new",
        "InvalidBucketName" => "check the bucket's name in --to",
        "SecondLevelDomainForbidden" => {
            "OSS wants the bucket in the host name: give --oss-endpoint a name, not an address"
        }
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException"
            if !oss =>
        {
            "the bucket is in another region: give --s3-region"
        }
        "PermanentRedirect" | "AccessForbidden" | "TemporaryRedirect" if oss => {
            "the bucket is in another region: give --oss-endpoint and --oss-region of its own"
        }
        "InvalidArgument" if oss => {
            "if the bucket is in another region, give its own --oss-endpoint and --oss-region"
        }
        "UnderDebt" => "the account is in arrears: settle it in the console",
        "NotImplemented" => "this store lacks a request that is needed",
        _ => return None,
    })
}

/// Returns the innermost cause, which is the most precise: "connection refused" rather than "error
/// sending request".
fn root_cause(error: &Error) -> String {
    let Some(mut cause) = error.source() else {
        return match error.message() {
            "" => "the answer is not one of a store".to_owned(),
            message => message.to_owned(),
        };
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::store::Outcome;

    fn refusal(code: &str, status: u16) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        RefusedRequest { status, code: code.to_owned() }.into_error()
    }

    #[test]
    fn refusals_of_keys_and_buckets_have_hints() {
        for code in [
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "AccessDenied",
            "SecondLevelDomainForbidden",
            "SecurityTokenExpired",
        ] {
            let error = describe(SignedService::Oss, "put x", &refusal(code, 403));
            assert_eq!(error.kind, StoreErrorKind::Denied, "{code}");
            assert!(error.hint.is_some() && error.message.contains(code), "{error}");
            assert!(error.message.contains("HTTP 403"), "{error}");
        }
        for (code, said) in [("", "refuses (HTTP 403)"), ("New", "refuses with New (HTTP 403)")] {
            let error = describe(SignedService::Oss, "put x", &refusal(code, 403)).to_string();
            assert!(error.contains(said) && error.contains("check the credentials"), "{error}");
        }
        let error = describe(SignedService::Oss, "put x", &refusal("NoSuchBucket", 404));
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert!(error.to_string().contains("--to"), "{error}");
        let skewed = refusal("RequestTimeTooSkewed", 403);
        assert!(describe(SignedService::Oss, "put x", &skewed).to_string().contains("clock"));
    }

    #[test]
    fn transient_causes_are_transient_errors() {
        use StoreErrorKind::{Denied, Exists, NotFound, Unavailable};
        for (code, status, expected) in [
            ("", 429, Unavailable),
            ("ServiceUnavailable", 503, Unavailable),
            ("InternalError", 500, Unavailable),
            ("", 599, Unavailable),
            ("BadDigest", 400, Unavailable),
            ("ConditionalRequestConflict", 409, Unavailable),
            ("OperationAborted", 409, Unavailable),
            ("NoSuchKey", 404, NotFound),
            ("FileAlreadyExists", 409, Exists),
            ("PreconditionFailed", 412, Exists),
            ("", 412, Exists),
            ("EntityTooLarge", 400, Denied),
            ("", 403, Denied),
            ("", 302, Denied),
        ] {
            let error = describe(SignedService::Oss, "put x", &refusal(code, status));
            assert_eq!(error.kind, expected, "{error}");
        }
        let late = Error::new(ErrorKind::Unexpected, "no answer within 10 s").set_temporary();
        assert!(describe(SignedService::S3, "put x", &late).is_transient());
        let lost = describe(SignedService::S3, "put x", &Error::new(ErrorKind::Unexpected, "gone"));
        assert_eq!(lost.outcome, Outcome::Indeterminate);
        assert!(lost.to_string().contains("--s3-endpoint"), "{lost}");
    }

    #[test]
    fn missing_credentials_name_what_was_tried() {
        let missing = NoCredentials { tried: "a, b".to_owned() };
        let error = Error::new(ErrorKind::PermissionDenied, "x").set_source(missing);
        let text = describe(SignedService::Oss, "put x", &error).to_string();
        assert!(text.contains("tried a, b"), "{text}");
        assert!(text.contains("OSS_ACCESS_KEY_ID"), "{text}");
    }

    #[test]
    fn untrusted_certificates_name_the_flag() {
        // The TLS stream returns it inside of an I/O error.
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let cause = std::io::Error::other(std::io::Error::other(unknown));
        let error = Error::new(ErrorKind::Unexpected, "send http request").set_source(cause);
        let error = describe(SignedService::Oss, "put x", &error.set_temporary());
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert!(error.to_string().contains("--ca-file"), "{error}");
    }
}
