//! The names of source logs, by which a start finds their journals.
//!
//! A log has the name of its source. Those of `--listen-http` are numbered instead, so that the
//! producers of a server go on when its address changes. A file beside the journal states the
//! address that was served last: a server goes on with the log of its address, wherever it stands
//! in the list.

use std::collections::BTreeMap;
use std::path::Path;

use super::find_journals;
use crate::error::Result;
use crate::sources::{HttpListener, Source};

/// The name of the first log of a server; the others have a number after it.
const SERVER: &str = "http";

/// Returns a name for each source, all different: their journals in `state` are found by these.
///
/// Fails with `Disk` if the state cannot be read.
pub fn names(sources: &[Source], state: Option<&Path>) -> Result<Vec<String>> {
    let addresses: Vec<String> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Http(HttpListener { address, .. }) => Some(address.to_string()),
            _ => None,
        })
        .collect();
    let logs = match state.filter(|_| !addresses.is_empty()) {
        Some(state) => server_logs(state)?,
        None => BTreeMap::new(),
    };
    let mut servers = server_numbers(&addresses, &logs).into_iter().map(server_name);
    let name = |source: &Source| match source {
        Source::Http(_) => servers.next().unwrap_or_default(),
        source => source.to_string(),
    };
    Ok(distinct(sources.iter().map(name)))
}

/// Returns the names, with a number for those that occur again.
pub fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let name = |name: String| {
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name} ({times})") }
    };
    names.map(name).collect()
}

/// Returns the name of the log of a server with this number, from 1.
fn server_name(number: u32) -> String {
    if number == 1 { SERVER.to_owned() } else { format!("{SERVER} ({number})") }
}

/// Returns the number in the name of the log of a server; `None` for another log.
fn server_number(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(SERVER)?;
    let number = match rest {
        "" => 1,
        rest => rest.strip_prefix(" (")?.strip_suffix(')')?.parse().ok()?,
    };
    (server_name(number) == name).then_some(number)
}

/// Returns the logs of servers in a state by their numbers, each with the address that was served
/// last; `None` for one of an older release.
fn server_logs(state: &Path) -> Result<BTreeMap<u32, Option<String>>> {
    let noted = find_journals::noted(state)?;
    let logs = noted.iter().filter_map(|known| {
        let (number, folder) = (server_number(&known.source)?, known.folder(state));
        folder.is_dir().then(|| (number, HttpListener::served_address(&folder)))
    });
    Ok(logs.collect())
}

/// Returns the number of each server's log, among `logs` with the addresses served last.
///
/// The log of the same address comes first. A server whose address has none takes one whose address
/// is not served any more, if there is one: that of its own number, or the first.
fn server_numbers(addresses: &[String], logs: &BTreeMap<u32, Option<String>>) -> Vec<u32> {
    let mut left = logs.clone();
    let mut found = vec![None; addresses.len()];
    for (found, address) in found.iter_mut().zip(addresses) {
        let known = left.iter().find(|(_, served)| served.as_ref() == Some(address));
        *found = known.map(|(number, _)| *number);
        left.retain(|number, _| Some(*number) != *found);
    }
    for (number, found) in (1..).zip(&mut found) {
        if found.is_none() && left.remove(&number).is_some() {
            *found = Some(number);
        }
    }
    let mut unused = (1..).filter(|number| !logs.contains_key(number));
    let any = |found: Option<u32>| {
        let other = || left.pop_first().map(|(number, _)| number).or_else(|| unused.next());
        found.or_else(other).unwrap_or_default()
    };
    found.into_iter().map(any).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(addresses: &[&str], logs: &[(u32, &str)]) -> Vec<u32> {
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let served = |address: &str| (!address.is_empty()).then(|| address.to_owned());
        let logs = logs.iter().map(|(number, address)| (*number, served(address)));
        server_numbers(&addresses, &logs.collect())
    }

    #[test]
    fn server_keeps_log_of_its_address() {
        assert_eq!(numbers(&["a", "b"], &[]), [1, 2]);
        assert_eq!(numbers(&["a", "b"], &[(1, "b"), (2, "a")]), [2, 1], "in another order");
        assert_eq!(numbers(&["a", "b"], &[(1, "b")]), [2, 1], "one more before it");
        assert_eq!(numbers(&["b"], &[(1, "a"), (2, "b")]), [2], "one less before it");
        assert_eq!(numbers(&["a", "a"], &[(1, "a"), (2, "a")]), [1, 2], "any free port");
    }

    #[test]
    fn changed_address_takes_log_that_is_free() {
        assert_eq!(numbers(&["c"], &[(1, "a")]), [1]);
        assert_eq!(numbers(&["c", "b"], &[(1, "a"), (2, "b")]), [1, 2]);
        assert_eq!(numbers(&["a", "c"], &[(1, "b"), (2, "a")]), [2, 1], "not that in use");
        assert_eq!(numbers(&["c", "d"], &[(1, "a"), (2, "b")]), [1, 2], "in order");
        assert_eq!(numbers(&["c", "d", "e"], &[(3, "a")]), [1, 2, 3], "of its number");
        assert_eq!(numbers(&["b", "a"], &[(1, ""), (2, "")]), [1, 2], "of an older release");
    }

    #[test]
    fn names_of_server_logs_are_read_back() {
        for number in [1, 2, 10] {
            assert_eq!(server_number(&server_name(number)), Some(number));
        }
        for other in ["http (1)", "http (x)", "https", "http 127.0.0.1:1", "stdin"] {
            assert_eq!(server_number(other), None, "{other}");
        }
    }
}
