//! A small double of the servers' API: the requests of an output, and no others.
//!
//! As the real ones, it shows a search what was there at the last refresh, and a document by its id
//! at once. It refuses items and loses answers by script.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

use crate::store::oss_double::wire::{Answer, Request};

/// The credentials that the double accepts, `admin:secret`.
const BASIC: &str = "Basic YWRtaW46c2VjcmV0";

/// A fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SearchFault {
    /// This status for each second item of a bulk request; the others are stored.
    Items(u16),
    /// This status, and no work.
    Status(u16),
    /// The work is done, and the connection closed without an answer.
    AnswerLost,
}

type Script = Box<dyn FnMut(&str, &str) -> Option<SearchFault> + Send>;

/// An index: documents by id, those that a search sees, and the request that made it.
#[derive(Clone, Default)]
pub(crate) struct Index {
    pub(crate) documents: BTreeMap<String, Value>,
    pub(crate) visible: BTreeMap<String, Value>,
    pub(crate) made_by: Value,
}

#[derive(Default)]
struct State {
    indexes: BTreeMap<String, Index>,
    /// The bulk requests that must come before any of them is answered.
    bulks_missing: usize,
    script: Option<Script>,
}

/// A running double. It ends with the process.
#[derive(Clone)]
pub(crate) struct SearchDouble {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Wakes the bulk requests that wait for others.
    bulk_came: Arc<Condvar>,
}

impl SearchDouble {
    pub(crate) fn start() -> SearchDouble {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let double = SearchDouble { address, state: Arc::default(), bulk_came: Arc::default() };
        let server = double.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                thread::spawn(move || server.serve(&stream).unwrap_or_default());
            }
        });
        double
    }

    /// Lets each request, by method and path, meet a fault.
    pub(crate) fn script(
        &self,
        script: impl FnMut(&str, &str) -> Option<SearchFault> + Send + 'static,
    ) {
        self.lock().script = Some(Box::new(script));
    }

    /// Answers no bulk request until so many have come.
    pub(crate) fn answer_bulks_together(&self, requests: usize) {
        self.lock().bulks_missing = requests;
    }

    /// Returns an index, empty if it is not there.
    pub(crate) fn index(&self, name: &str) -> Index {
        self.lock().indexes.get(name).cloned().unwrap_or_default()
    }

    /// Makes an index with these fields.
    pub(crate) fn make(&self, name: &str, fields: Value) {
        let made_by = json!({"mappings": {"properties": fields}});
        let index = Index { made_by, ..Index::default() };
        self.lock().indexes.insert(name.to_owned(), index);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panicked")
    }

    fn serve(&self, stream: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(mut request) = Request::read_head(&mut reader)? {
            request.read_body(&mut reader, 1)?;
            let mut state = self.lock();
            if request.path.ends_with("_bulk") {
                state.bulks_missing = state.bulks_missing.saturating_sub(1);
                self.bulk_came.notify_all();
                let is_alone = |state: &mut State| state.bulks_missing > 0;
                state = self.bulk_came.wait_while(state, is_alone).expect("no thread panicked");
            }
            let (method, path) = (request.method.clone(), request.path.clone());
            let fault = state.script.as_mut().and_then(|script| script(&method, &path));
            let (status, body) = match fault {
                Some(SearchFault::Status(status)) => (status, json!({"error": "on order"})),
                _ if request.header("authorization") != BASIC => {
                    (401, json!({"error": {"reason": "missing authentication credentials"}}))
                }
                _ => state.answer(&request, fault),
            };
            drop(state);
            if fault == Some(SearchFault::AnswerLost) {
                return Ok(());
            }
            let answer = Answer::new(status).body(body.to_string().into_bytes());
            answer.write(&method, 0, stream)?;
        }
        Ok(())
    }
}

impl State {
    fn answer(&mut self, request: &Request, fault: Option<SearchFault>) -> (u16, Value) {
        let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let missing = (404, json!({"error": {"reason": "no such index"}}));
        match (&*request.method, &path[..]) {
            ("GET", [""]) => {
                (200, json!({"version": {"distribution": "opensearch", "number": "2"}}))
            }
            ("PUT", [index]) if self.indexes.contains_key(*index) => {
                (400, json!({"error": {"reason": "resource_already_exists"}}))
            }
            ("PUT", [index]) => {
                let made = Index { made_by: body, ..Index::default() };
                self.indexes.insert((*index).to_owned(), made);
                (200, json!({"acknowledged": true}))
            }
            (method, [name, rest @ ..]) => match self.indexes.get_mut(*name) {
                Some(index) => index.answer(name, method, rest, request, &body, fault),
                None => missing,
            },
            _ => missing,
        }
    }
}

impl Index {
    fn answer(
        &mut self,
        name: &str,
        method: &str,
        path: &[&str],
        request: &Request,
        body: &Value,
        fault: Option<SearchFault>,
    ) -> (u16, Value) {
        let absent = (404, json!({"found": false}));
        let answer = match (method, path) {
            ("GET", ["_mapping"]) => (200, json!({name: {"mappings": self.made_by["mappings"]}})),
            ("POST", ["_refresh"]) => {
                self.visible = self.documents.clone();
                (200, json!({}))
            }
            ("POST", ["_bulk"]) => (200, self.bulk(&request.body, fault)),
            ("POST", ["_search"]) => (200, self.search(body)),
            ("POST", ["_delete_by_query"]) => {
                let named = body["query"]["terms"]["epoch"].as_array().cloned();
                let named = named.unwrap_or_default();
                let below = body["query"]["range"]["epoch"]["lt"].as_u64().unwrap_or(0);
                let visible = self.visible.clone();
                self.documents.retain(|id, row| {
                    let of = &row["epoch"];
                    let is_newer = of.as_u64().is_some_and(|of| of >= below);
                    !visible.contains_key(id) || !named.contains(of) && is_newer
                });
                (200, json!({"failures": []}))
            }
            ("GET", ["_doc", id]) => match self.documents.get(*id) {
                Some(document) => (200, json!({"found": true, "_source": document})),
                None => absent,
            },
            ("PUT", ["_create", id]) if self.documents.contains_key(*id) => {
                (409, json!({"error": {"reason": "version conflict"}}))
            }
            ("PUT", ["_doc" | "_create", id]) => {
                self.documents.insert((*id).to_owned(), body.clone());
                (201, json!({}))
            }
            ("DELETE", ["_doc", id]) => match self.documents.remove(*id) {
                Some(_) => (200, json!({})),
                None => absent,
            },
            _ => (400, json!({"error": {"reason": format!("{method} {path:?}")}})),
        };
        if request.value("refresh") == "true" {
            self.visible = self.documents.clone();
        }
        answer
    }

    fn bulk(&mut self, body: &[u8], fault: Option<SearchFault>) -> Value {
        let text = std::str::from_utf8(body).expect("text");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let mut items = Vec::new();
        for (number, pair) in lines.chunks(2).enumerate() {
            let operation = if pair[0]["index"].is_null() { "create" } else { "index" };
            let head = &pair[0][operation];
            let id = head["_id"].as_str().expect("an id").to_owned();
            let is_refused = |there: &Value| match operation {
                "create" => true,
                _ => there["epoch"].as_u64() > head["version"].as_u64(),
            };
            let status = match fault {
                Some(SearchFault::Items(status)) if number % 2 == 1 => status,
                _ if self.documents.get(&id).is_some_and(is_refused) => 409,
                _ => {
                    self.documents.insert(id, pair[1].clone());
                    201
                }
            };
            items.push(json!({operation: {"status": status, "error": {"reason": "on order"}}}));
        }
        json!({"errors": false, "items": items})
    }

    fn search(&self, body: &Value) -> Value {
        let from = body["query"]["range"]["epoch"]["gte"].as_u64().unwrap_or(0);
        let newest = self.visible.values().filter_map(|row| row["epoch"].as_u64()).max();
        let newest = newest.filter(|newest| *newest >= from);
        let prefix = body["query"]["prefix"]["key"].as_str().unwrap_or_default();
        let after = body["search_after"][0].as_str().unwrap_or_default();
        let is_wanted = |(_, document): &(&String, &Value)| {
            let key = document["key"].as_str().unwrap_or_default();
            key.starts_with(prefix) && (after.is_empty() || key > after)
        };
        let mut documents: Vec<_> = self.visible.iter().filter(is_wanted).collect();
        documents.sort_by_key(|(_, document)| document["key"].as_str());
        let hits: Vec<Value> = documents
            .into_iter()
            .map(|(id, document)| json!({"_id": id, "_source": document}))
            .collect();
        let states: BTreeSet<_> =
            self.visible.values().filter_map(|row| row["state"].as_str()).collect();
        let buckets: Vec<Value> = states.iter().map(|state| json!({"key": state})).collect();
        let aggregations = json!({"newest": {"value": newest}, "states": {"buckets": buckets}});
        json!({"hits": {"hits": hits}, "aggregations": aggregations})
    }
}
