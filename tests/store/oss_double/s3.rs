//! The double's other dialect: S3, with AWS SigV4 computed from the published rule.

use sha2::{Digest, Sha256};

use super::signature::{encode, hex, hmac};
use super::wire::{Answer, Request, decode};
use super::{BUCKET, KEY_ID, SECRET};

pub(crate) const S3_REGION: &str = "eu-central-1";
pub(crate) const S3_HOST: &str = "s3.example.com";
/// A path below which the double has its buckets, too.
pub(crate) const S3_PATH: &str = "storage/v1/s3";

/// The string to sign and the signature of a request whose Authorization names these headers.
fn sign(request: &Request, signed: &str, region: &str, secret: &str) -> (String, String) {
    let again = |text: &str| encode(&decode(text)).replace('/', "%2F");
    let pairs = request.query.split('&').filter(|pair| !pair.is_empty());
    let mut query: Vec<String> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            format!("{}={}", again(name), again(value))
        })
        .collect();
    query.sort();
    let headers: String =
        signed.split(';').map(|name| format!("{name}:{}\n", request.header(name).trim())).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{}",
        request.method,
        encode(&decode(&request.path)),
        query.join("&"),
        request.header("x-amz-content-sha256"),
    );
    let date = request.header("x-amz-date");
    let scope = format!("{}/{region}/s3/aws4_request", date.get(..8).unwrap_or_default());
    let digest = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let key = scope
        .split('/')
        .fold(format!("AWS4{secret}").into_bytes(), |key, step| hmac(&key, step.as_bytes()));
    let signature = hex(&hmac(&key, text.as_bytes()));
    (text, signature)
}

/// The key that a request is about, by path or by host, once its signature is found right.
pub(crate) fn check(request: &Request, fields: &str) -> Result<String, Answer> {
    let field = |name: &str| {
        let found = fields.split(',').find_map(|field| {
            let (known, value) = field.trim().split_once('=')?;
            (known == name).then_some(value)
        });
        found.unwrap_or_default()
    };
    let (id, scope) = field("Credential").split_once('/').unwrap_or_default();
    if id != KEY_ID {
        return Err(Answer::error(403, "InvalidAccessKeyId"));
    }
    if scope.split('/').nth(1) != Some(S3_REGION) {
        return Err(Answer::error(400, "AuthorizationHeaderMalformed"));
    }
    let (_, signature) = sign(request, field("SignedHeaders"), S3_REGION, SECRET);
    if !field("SignedHeaders").split(';').any(|name| name == "host")
        || field("Signature") != signature
    {
        return Err(Answer::error(403, "SignatureDoesNotMatch"));
    }
    let path = decode(request.path.trim_start_matches('/'));
    if request.header("host").starts_with(&format!("{BUCKET}.")) {
        return Ok(path);
    }
    let path = path.strip_prefix(S3_PATH).map_or(&*path, |path| path.trim_start_matches('/'));
    match path.strip_prefix(BUCKET) {
        Some(key) if key.is_empty() || key.starts_with('/') => {
            Ok(key.trim_start_matches('/').to_owned())
        }
        _ => Err(Answer::error(404, "NoSuchBucket")),
    }
}

#[test]
fn signatures_are_those_that_botocore_makes() {
    let text = include_str!("../../data/s3-vectors.json");
    let file: serde_json::Value = serde_json::from_str(text).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 12);
    for vector in vectors {
        let field = |name: &str| vector[name].as_str().unwrap_or_default().to_owned();
        let headers = vector["headers"].as_object().unwrap().iter();
        let request = Request {
            method: field("method"),
            path: field("path"),
            query: field("query"),
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect(),
            body: Vec::new(),
        };
        let authorization = field("authorization");
        let (rest, expected) = authorization.rsplit_once(", Signature=").unwrap();
        let signed = rest.rsplit_once("SignedHeaders=").unwrap().1;
        let secret = field("access_key_secret");
        let (text, signature) = sign(&request, signed, &field("region"), &secret);
        assert_eq!(text, field("string_to_sign"), "{vector}");
        assert_eq!(signature, expected, "{vector}");
    }
}
