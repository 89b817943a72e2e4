//! What a store or the network said, told by what to do about it.
//!
//! The codes are those of OSS and S3; both speak the same dialect. Server text other than the code
//! was dropped by the [transport](super::transport) already.

use std::error::Error as _;

use opendal::{Error, ErrorKind};

use super::super::{StoreError, StoreErrorKind};
use super::transport::{NO_CREDENTIALS, Service};

/// Tells an opendal error; `what` is what was tried, with its place.
pub(super) fn told(service: Service, what: &str, error: &Error) -> StoreError {
    let code = code_of(error);
    if error.message().starts_with(NO_CREDENTIALS) {
        return denied(service, what, error);
    }
    if let Some(hint) = refusal_hint(service, code) {
        let message = format!("cannot {what}: the store refuses with {code}{}", status_of(error));
        return StoreError::new(StoreErrorKind::Denied, message).hint(hint);
    }
    let message = format!("cannot {what}: {}", reason(error, code));
    match (error.kind(), code) {
        (_, "FileAlreadyExists" | "FileImmutable" | "PreconditionFailed")
        | (ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists, _) => {
            StoreError::new(StoreErrorKind::Exists, message)
        }
        (ErrorKind::NotFound, _) => StoreError::new(StoreErrorKind::NotFound, message),
        (ErrorKind::PermissionDenied, _) => denied(service, what, error),
        (
            _,
            "BadDigest"
            | "InvalidDigest"
            | "RequestTimeout"
            | "OperationAborted"
            | "ConditionalRequestConflict",
        )
        | (ErrorKind::RateLimited | ErrorKind::Conflict, _) => {
            StoreError::new(StoreErrorKind::Unavailable, message).indeterminate()
        }
        _ if error.message().contains("HTTP 4") && !error.is_temporary() => {
            StoreError::new(StoreErrorKind::Denied, message)
                .hint("see the store's documentation for this code; check --to and the endpoint")
        }
        _ if error.message().contains("HTTP 3") => {
            let flag = service.endpoint_flag();
            StoreError::new(StoreErrorKind::Denied, message)
                .hint(format!("it leads elsewhere: check {flag}, and a proxy in the environment"))
        }
        (ErrorKind::ConfigInvalid | ErrorKind::Unsupported, _) => {
            StoreError::new(StoreErrorKind::Denied, message)
        }
        _ => transport_failure(service, what, error, message),
    }
}

fn denied(service: Service, what: &str, error: &Error) -> StoreError {
    let (message, hint) = match (error.message().strip_prefix(NO_CREDENTIALS), service) {
        (Some(tried), Service::Oss) => (
            format!(
                "cannot {what}: no usable OSS credentials; tried{}",
                &tried[1.min(tried.len())..]
            ),
            "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET (and OSS_SESSION_TOKEN for STS), or run `aliyun configure`",
        ),
        (Some(tried), Service::S3) => (
            format!(
                "cannot {what}: no usable AWS credentials; tried{}",
                &tried[1.min(tried.len())..]
            ),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or run `aws configure`",
        ),
        (None, _) => (
            format!("cannot {what}: the store refuses{}", status_of(error)),
            "check the credentials, their policy, and the bucket's name in --to",
        ),
    };
    StoreError::new(StoreErrorKind::Denied, message).hint(hint)
}

/// A request that got no answer, or one that says to come back later.
fn transport_failure(service: Service, what: &str, error: &Error, message: String) -> StoreError {
    let text = error.to_string();
    let endpoint = service.endpoint_flag();
    let cause = root_cause(error);
    if cause.contains("certificate") {
        let message = format!("cannot {what}: {cause}");
        return StoreError::new(StoreErrorKind::Denied, message)
            .hint("give --ca-file the certificate of whoever signed the store's");
    }
    let failed = StoreError::new(StoreErrorKind::Unavailable, message).indeterminate();
    if text.contains("dns error") || cause.contains("lookup") {
        return failed.hint(format!("check the host in {endpoint} and the name server"));
    }
    if code_of(error).is_empty() && status_of(error).is_empty() {
        // It may be the wrong place that does not answer.
        return failed
            .hint(format!("check the network, {endpoint}, and a proxy in the environment"));
    }
    failed
}

/// What to do about a code that trying again does not mend.
fn refusal_hint(service: Service, code: &str) -> Option<&'static str> {
    let oss = service == Service::Oss;
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

/// `code: "X"` as opendal writes an error's body out.
fn code_of(error: &Error) -> &str {
    let rest = error.message().split_once("code: \"");
    rest.and_then(|(_, rest)| rest.split_once('"')).map(|(code, _)| code).unwrap_or_default()
}

fn status_of(error: &Error) -> String {
    let status = error.message().split_once("HTTP ");
    let status = status.and_then(|(_, rest)| rest.get(..3));
    status.map(|status| format!(" (HTTP {status})")).unwrap_or_default()
}

fn reason(error: &Error, code: &str) -> String {
    let status = status_of(error);
    match (code, status.as_str()) {
        ("", "") => root_cause(error),
        ("", status) => format!("the store answers{status}"),
        (code, status) => format!("the store answers {code}{status}"),
    }
}

/// The innermost cause, which says most: "connection refused" rather than "error sending request".
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
    use super::*;
    use crate::store::Outcome;

    fn body(kind: ErrorKind, code: &str, status: u16) -> Error {
        let text = format!(
            "OssError {{ code: \"{code}\", message: \"HTTP {status}\", request_id: \"\" }}"
        );
        Error::new(kind, text)
    }

    fn kind(error: &Error) -> StoreErrorKind {
        told(Service::Oss, "put x", error).kind
    }

    #[test]
    fn what_keys_and_buckets_are_refused_for_is_configuration_with_a_way_out() {
        for code in [
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "AccessDenied",
            "SecondLevelDomainForbidden",
            "SecurityTokenExpired",
        ] {
            let error = told(Service::Oss, "put x", &body(ErrorKind::PermissionDenied, code, 403));
            assert_eq!(error.kind, StoreErrorKind::Denied, "{code}");
            assert!(error.hint.is_some() && error.message.contains(code), "{error}");
        }
        let error = told(Service::Oss, "put x", &body(ErrorKind::NotFound, "NoSuchBucket", 404));
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert!(error.to_string().contains("--to"), "{error}");
        let skewed = body(ErrorKind::PermissionDenied, "RequestTimeTooSkewed", 403);
        assert!(told(Service::Oss, "put x", &skewed).to_string().contains("clock"));
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for (error, expected) in [
            (body(ErrorKind::RateLimited, "", 429), StoreErrorKind::Unavailable),
            (
                body(ErrorKind::Unexpected, "ServiceUnavailable", 503).set_temporary(),
                StoreErrorKind::Unavailable,
            ),
            (
                body(ErrorKind::Unexpected, "InternalError", 500).set_temporary(),
                StoreErrorKind::Unavailable,
            ),
            (body(ErrorKind::Unexpected, "BadDigest", 400), StoreErrorKind::Unavailable),
            (
                Error::new(ErrorKind::Unexpected, "no answer within 10 s").set_temporary(),
                StoreErrorKind::Unavailable,
            ),
            (body(ErrorKind::NotFound, "NoSuchKey", 404), StoreErrorKind::NotFound),
            (body(ErrorKind::Conflict, "FileAlreadyExists", 409), StoreErrorKind::Exists),
            (body(ErrorKind::Unexpected, "EntityTooLarge", 400), StoreErrorKind::Denied),
        ] {
            assert_eq!(kind(&error), expected, "{error}");
        }
        let lost = told(Service::S3, "put x", &Error::new(ErrorKind::Unexpected, "gone"));
        assert_eq!(lost.outcome, Outcome::Indeterminate);
        assert!(lost.to_string().contains("--s3-endpoint"), "{lost}");
    }

    #[test]
    fn missing_credentials_name_what_was_tried() {
        let error = Error::new(ErrorKind::PermissionDenied, format!("{NO_CREDENTIALS}: a, b"));
        let text = told(Service::Oss, "put x", &error).to_string();
        assert!(text.contains("tried a, b"), "{text}");
        assert!(text.contains("OSS_ACCESS_KEY_ID"), "{text}");
    }

    #[test]
    fn an_untrusted_certificate_names_the_flag() {
        let cause = std::io::Error::other("invalid peer certificate: UnknownIssuer");
        let error = Error::new(ErrorKind::Unexpected, "send http request").set_source(cause);
        let error = told(Service::Oss, "put x", &error.set_temporary());
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert!(error.to_string().contains("--ca-file"), "{error}");
    }
}
