//! Reads the environment of a process: variables, and the settings that other tools keep in the
//! home directory.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use reqsign_core::Env;

/// The environment variables and the home directory in which credentials are searched for.
///
/// It is passed to a store, so that tests have an environment of their own. `Debug` shows no value.
#[derive(Clone, Default)]
pub struct Environment {
    /// The variables.
    vars: Arc<HashMap<String, String>>,
    /// The home of the user, which has the files of other tools.
    home: Option<PathBuf>,
}

impl Environment {
    /// Returns the environment of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        Environment {
            vars: Arc::new(std::env::vars_os().filter_map(text_pair).collect()),
            home: std::env::home_dir(),
        }
    }

    /// Returns an environment with exactly these variables and this home directory.
    #[cfg(any(test, feature = "internals"))]
    pub fn new<'a>(
        vars: impl IntoIterator<Item = (&'a str, &'a str)>,
        home: Option<PathBuf>,
    ) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Environment { vars: Arc::new(vars.into_iter().map(own).collect()), home }
    }

    /// Returns the value of a variable, without blanks and line breaks around it. An empty variable
    /// counts as unset.
    pub fn var(&self, name: &str) -> Option<String> {
        let value = self.vars.get(name)?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Returns a value that `ossutil config` has stored.
    pub fn ossutil_value(&self, name: &str) -> Option<String> {
        let path = self.home.as_ref()?.join(".ossutilconfig");
        let text = std::fs::read_to_string(path).ok()?;
        ini_value(&text, &OSSUTIL_SECTIONS, &[name])
    }

    /// Returns a value that `aws configure` has stored in the chosen profile.
    pub fn aws_value(&self, name: &str) -> Option<String> {
        let path = match self.var("AWS_CONFIG_FILE") {
            Some(path) => PathBuf::from(path),
            None => self.home.as_ref()?.join(".aws/config"),
        };
        let text = std::fs::read_to_string(path).ok()?;
        let profile = self.var("AWS_PROFILE").or_else(|| self.var("AWS_DEFAULT_PROFILE"));
        let profile = profile.unwrap_or_else(|| "default".to_owned());
        let section = format!("profile {profile}");
        match profile.as_str() {
            "default" => ini_value(&text, &["default", &section], &[&name.replace('_', "")]),
            _ => ini_value(&text, &[&section], &[&name.replace('_', "")]),
        }
    }

    /// Returns the hosts that the environment exempts from its proxies, as they stand there.
    pub fn no_proxy(&self) -> String {
        self.var("no_proxy").or_else(|| self.var("NO_PROXY")).unwrap_or_default()
    }
}

/// Returns name and value of a variable if both are UTF-8.
fn text_pair((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

impl Env for Environment {
    fn var(&self, key: &str) -> Option<String> {
        Environment::var(self, key)
    }

    fn vars(&self) -> HashMap<String, String> {
        let names = self.vars.keys();
        names.filter_map(|name| Some((name.clone(), Environment::var(self, name)?))).collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        self.home.clone()
    }
}

/// The sections that ossutil reads without a profile: in version 1 and in version 2.
pub const OSSUTIL_SECTIONS: [&str; 2] = ["credentials", "default"];

/// Returns the first value of one of `names` in an INI file, before the first section or in one of
/// `sections`. `names` and `sections` are in lower case, names without separators. Quotes and
/// backslashes in a value are literal, as for the tools that write these files.
pub fn ini_value(text: &str, sections: &[&str], names: &[&str]) -> Option<String> {
    let mut ours = true;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default();
            let section = section.split_whitespace().collect::<Vec<_>>().join(" ");
            ours = sections.iter().any(|ours| ours.eq_ignore_ascii_case(&section));
        } else if ours && !line.starts_with(['#', ';']) {
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            let name = name.trim().to_ascii_lowercase().replace(['-', '_'], "");
            if names.contains(&name.as_str()) && !value.trim().is_empty() {
                return Some(value.trim().to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_read_in_either_case() {
        for name in ["NO_PROXY", "no_proxy"] {
            assert_eq!(Environment::new([(name, " a, b ")], None).no_proxy(), "a, b");
        }
    }

    #[test]
    fn an_environment_shows_no_value() {
        let environment = Environment::new([("OSS_ACCESS_KEY_SECRET", "planted")], None);
        assert!(!format!("{environment:?}").contains("planted"));
    }

    #[test]
    fn ini_values_come_from_both_sections() {
        let text =
            "[default]\n accessKeyID = a \n# region=no\nregion=cn-x\n[profile dev]\nendpoint=y";
        let value = |name| ini_value(text, &OSSUTIL_SECTIONS, &[name]);
        assert_eq!(value("accesskeyid").as_deref(), Some("a"));
        assert_eq!(value("region").as_deref(), Some("cn-x"));
        assert_eq!(value("endpoint"), None);
    }
}
