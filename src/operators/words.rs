//! What is counted, and over which epochs: the combinators between [`Lines`] and [`Counts`].

use std::rc::Rc;

use super::Lines;
use super::combine::{What, combine};
use super::counts::{Counts, Over};
use super::window::Window;

/// The words (or keys) of the lines, not yet counted.
#[derive(Clone)]
pub struct Words<'s> {
    lines: Lines<'s>,
    what: What,
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl<'s> Lines<'s> {
    /// The words of the lines, as `--split` has it.
    pub fn words(self) -> Words<'s> {
        Words { lines: self, what: What::Words }
    }

    /// What `keys` takes out of each line, to be counted as words are: it is given the line's bytes
    /// without their end, and calls its second argument with each key, of any bytes.
    ///
    /// Keys are text: ill-formed UTF-8 is replaced and `--lowercase` applied as for words. Lines
    /// without a key are skipped and counted (`lines_without_key` of the tally).
    ///
    /// ```
    /// # use wordtide::operators::{Counts, Lines};
    /// /// How often each first letter occurs.
    /// fn initials<'s>(lines: Lines<'s>) -> Counts<'s> {
    ///     lines.keys(|line, emit| line.chunks(1).take(1).for_each(emit)).per_epoch().count()
    /// }
    /// ```
    pub fn keys<F>(self, keys: F) -> Words<'s>
    where
        F: Fn(&[u8], &mut dyn FnMut(&[u8])) + 'static,
    {
        Words { lines: self, what: What::Keys(Rc::new(keys)) }
    }
}

impl<'s> Words<'s> {
    /// Each epoch on its own: what Spark's `reduceByKey` gives for a batch.
    ///
    /// As a collection: a word enters at its epoch and leaves at the next. Keeps the words of open
    /// epochs only.
    pub fn per_epoch(self) -> Windowed<'s> {
        Windowed { words: self, over: Over::Epoch }
    }

    /// All epochs up to each: what Spark's `updateStateByKey` gives, adding up.
    ///
    /// As a collection: a word enters at its epoch and never leaves. Keeps every distinct word.
    pub fn running(self) -> Running<'s> {
        Running { words: self, max_keys: None }
    }

    /// The epochs of a sliding window, published when one ends: Spark's `reduceByKeyAndWindow`. A
    /// number is so many intervals, one window ending with every epoch.
    ///
    /// As a collection: a word enters at its epoch and leaves one window later. Keeps the distinct
    /// words of each epoch of the window, twice. Epochs at which no window ends publish nothing,
    /// not even a marker; a window's end that became no epoch (because the job was late, or was not
    /// running) is not published. A window that does not fit the interval ends the job with a
    /// `Usage` error: [`Window::check`] says so before.
    pub fn sliding(self, window: impl Into<Window>) -> Windowed<'s> {
        Windowed { words: self, over: Over::Window(window.into()) }
    }
}

/// Words that count from the start.
#[derive(Clone, Debug)]
pub struct Running<'s> {
    words: Words<'s>,
    max_keys: Option<u64>,
}

impl<'s> Running<'s> {
    /// Ends the job, with an error that names `--max-keys`, at the first epoch in which all workers
    /// together keep more than `max_keys` distinct words.
    #[must_use]
    pub fn max_keys(mut self, max_keys: Option<u64>) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// How often each word has occurred.
    pub fn count(self) -> Counts<'s> {
        Windowed { words: self.words, over: Over::Start { max_keys: self.max_keys } }.count()
    }
}

/// Words with the epochs over which they count.
#[derive(Clone, Debug)]
pub struct Windowed<'s> {
    words: Words<'s>,
    over: Over,
}

impl<'s> Windowed<'s> {
    /// How often each word occurs.
    pub fn count(self) -> Counts<'s> {
        let Words { lines: Lines { blocks, ticks, context }, what } = self.words;
        let runs = combine(blocks, what, Rc::clone(&context));
        Counts { runs, ticks, context, over: self.over }
    }
}
