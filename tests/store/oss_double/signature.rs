//! OSS V4 signatures, computed from the published rule and from nothing of the client's.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::wire::decode;

/// The parts of a request that its signature covers.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    pub(crate) bucket: &'a str,
    /// Decoded; `None` for the bucket itself.
    pub(crate) key: Option<&'a str>,
    /// As it was sent.
    pub(crate) query: &'a str,
    /// Names in lower case.
    pub(crate) headers: &'a [(String, String)],
    /// Names that the Authorization header adds to the covered ones.
    pub(crate) additional: &'a [String],
    pub(crate) region: &'a str,
}

impl Signed<'_> {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.trim())
    }

    fn canonical(&self) -> String {
        let path = format!("/{}/{}", self.bucket, self.key.unwrap_or_default());
        // Decoded and encoded again: a client may leave more as it is than the rule does.
        let again = |text: &str| encode(&decode(text)).replace('/', "%2F");
        let mut query: Vec<String> = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let equals = if value.is_empty() { "" } else { "=" };
            query.push([&again(name), equals, &again(value)].concat());
        }
        query.sort();
        let covered = |name: &str| {
            name == "content-type"
                || name == "content-md5"
                || name.starts_with("x-oss-")
                || self.additional.iter().any(|added| added == name)
        };
        let mut headers: Vec<String> = self
            .headers
            .iter()
            .filter(|(name, _)| covered(name))
            .map(|(name, value)| format!("{name}:{}\n", value.trim()))
            .collect();
        headers.sort();
        let mut additional = self.additional.to_vec();
        additional.sort();
        format!(
            "{}\n{}\n{}\n{}\n{}\n{}",
            self.method,
            encode(&path),
            query.join("&"),
            headers.concat(),
            additional.join(";"),
            self.header("x-oss-content-sha256")
        )
    }

    pub(crate) fn scope(&self) -> String {
        let day = self.header("x-oss-date").get(..8).unwrap_or_default();
        format!("{day}/{}/oss/aliyun_v4_request", self.region)
    }

    pub(crate) fn string_to_sign(&self) -> String {
        format!(
            "OSS4-HMAC-SHA256\n{}\n{}\n{}",
            self.header("x-oss-date"),
            self.scope(),
            hex(&Sha256::digest(self.canonical()))
        )
    }

    /// The signature in hexadecimal digits.
    pub(crate) fn signature(&self, secret: &str) -> String {
        let mut key = format!("aliyun_v4{secret}").into_bytes();
        for step in self.scope().split('/') {
            key = hmac(&key, step.as_bytes());
        }
        hex(&hmac(&key, self.string_to_sign().as_bytes()))
    }
}

pub(crate) fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All but unreserved characters and `/`, as two hexadecimal digits a byte.
pub(crate) fn encode(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[test]
fn signatures_are_those_that_alibabas_sdk_makes() {
    let text = include_str!("../../data/oss-vectors.json");
    let file: serde_json::Value = serde_json::from_str(text).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 14);
    for vector in vectors {
        let field = |name: &str| vector[name].as_str().unwrap_or_default();
        let headers: Vec<_> = vector["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        let additional: Vec<_> = vector["additional_headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        let signed = Signed {
            method: field("method"),
            bucket: field("bucket"),
            key: vector["key"].as_str(),
            query: field("query"),
            headers: &headers,
            additional: &additional,
            region: field("region"),
        };
        assert_eq!(signed.string_to_sign(), field("string_to_sign"), "{vector}");
        let signature = signed.signature(field("access_key_secret"));
        let expected = field("authorization").rsplit_once("Signature=").unwrap().1;
        assert_eq!(signature, expected, "{vector}");
    }
}
