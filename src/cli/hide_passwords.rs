//! Addresses without the passwords in them, for what is printed.

/// Stands in place of a password.
const HIDDEN: &str = "***";
/// A parameter of a URL is a secret if its name holds one of these.
const SECRET_NAMES: [&str; 4] = ["pass", "pwd", "secret", "token"];

/// Returns a text without the passwords that it holds if it is a URL: that of the user, and those
/// in parameters.
///
/// In a password `/`, `?` and `@` should be escaped, and often are not. So all before the last `@`
/// is hidden if the first colon comes before the first `@` and the first `/`. In doubt too much is
/// hidden.
pub fn without_passwords(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let first = rest.find([':', '@', '/']);
    let is_colon = first.is_some_and(|at| rest[at..].starts_with(':'));
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) if is_colon => format!("{HIDDEN}@{host}"),
        _ => rest.to_owned(),
    };
    let Some((place, parameters)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let hide = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
        _ => parameter.to_owned(),
    };
    let parameters: Vec<String> = parameters.split('&').map(hide).collect();
    format!("{scheme}://{place}?{}", parameters.join("&"))
}

/// Returns true for a URL that holds a password.
pub fn has_password(text: &str) -> bool {
    without_passwords(text) != text
}

/// Returns true for the name of a parameter whose value is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("postgres://u:sek@h/db", "postgres://***@h/db"),
            ("postgres://u:se/k@h/db", "postgres://***@h/db"),
            ("postgres://u:s@e?k@h:1/db", "postgres://***@h:1/db"),
            ("http://:sek@h:1", "http://***@h:1"),
            ("s3://AK:se/k@b/p", "s3://***@b/p"),
            ("postgres://h/db?password=sek", "postgres://h/db?password=***"),
            ("mysql://h/db?a=b&sslPassword=sek&c=d", "mysql://h/db?a=b&sslPassword=***&c=d"),
            ("https://h/?access_token=sek", "https://h/?access_token=***"),
        ] {
            assert_eq!(without_passwords(text), shown);
            assert!(has_password(text), "{text}");
        }
    }

    #[test]
    fn texts_without_passwords_stay() {
        for text in [
            "out/a:b@c",
            "127.0.0.1:9999",
            "oss://bucket/a:b@c/d",
            "postgres://user@h:5432/db?sslmode=require",
            "s3://bucket/p?a",
            "https://h:1/",
        ] {
            assert_eq!(without_passwords(text), text);
            assert!(!has_password(text), "{text}");
        }
    }
}
