//! The page: one file with its style and its script, which asks no other host for anything.

use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderValue, StatusCode};

use super::response_headers::{Response, response};
use crate::random::random_id;
use crate::response_body;

/// The page, with places for style, script and number.
const PAGE: &str = include_str!("page/page.html");
/// The style, in light and dark.
const STYLE: &str = include_str!("page/page.css");
/// The script that draws the charts.
const CHARTS: &str = include_str!("page/charts.js");
/// The script that asks for figures and follows events.
const SCRIPT: &str = include_str!("page/page.js");
/// The page that asks for the token.
const LOGIN: &str = include_str!("page/login.html");

/// The text in a file that is replaced by the number of the answer.
const NONCE: &str = "{{nonce}}";

/// Returns the page.
pub fn page() -> Response {
    html(StatusCode::OK, PAGE)
}

/// Returns the page that asks for the token.
pub fn login(status: StatusCode) -> Response {
    html(status, LOGIN)
}

/// Returns a file as a page. Its policy allows the style and the script that stand in it, by a
/// number that cannot be guessed, and requests to this server.
fn html(status: StatusCode, file: &str) -> Response {
    // Without a number the policy forbids style and script; the page states it in its text.
    let nonce = random_id().unwrap_or_default();
    let text = file
        .replace("{{style}}", STYLE)
        .replace("{{charts}}", CHARTS)
        .replace("{{script}}", SCRIPT)
        .replace(NONCE, &nonce);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let mut answer = response(status, "text/html; charset=utf-8", response_body::whole(text));
    let default = HeaderValue::from_static("default-src 'none'");
    let policy = HeaderValue::try_from(policy).unwrap_or(default);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_small_and_stands_alone() {
        let bytes = PAGE.len() + STYLE.len() + CHARTS.len() + SCRIPT.len();
        assert!(bytes <= 100 << 10, "{bytes} bytes");
        for text in [PAGE, STYLE, CHARTS, SCRIPT, LOGIN] {
            let outside = ["src=\"http", "href=\"http", "url(", "@import", "//cdn"];
            let found = outside.iter().find(|outside| text.contains(**outside));
            assert_eq!(found, None);
            assert!(!text.contains(" style=\""), "the policy forbids styles of an element");
        }
    }
}
