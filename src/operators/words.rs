//! The combinators between [`Lines`] and [`Counts`]: what is counted, and over which epochs.

use std::rc::Rc;

use super::count_words::{CountedItem, count_words};
use super::counts::{Counts, Over};
use super::lines::Lines;
use super::window::Window;

/// The words (or keys) of the lines, not yet counted.
#[derive(Clone)]
pub struct Words<'s> {
    /// The lines of the sources.
    lines: Lines<'s>,
    /// The rule by which a line gives words.
    item: CountedItem,
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl<'s> Lines<'s> {
    /// Returns the words of the lines, split by the rule of `--split`.
    pub fn words(self) -> Words<'s> {
        Words { lines: self, item: CountedItem::Words }
    }

    /// Returns the keys that `keys` extracts from each line, to be counted as words are.
    ///
    /// `keys` is called with the bytes of a line without its end. It calls its second argument with
    /// each key, of any bytes.
    ///
    /// Keys are text: ill-formed UTF-8 is replaced and `--lowercase` applied as for words. Lines
    /// without a key are skipped and counted (`lines_without_key` of the tally).
    ///
    /// ```
    /// # use wordtide::operators::{Counts, Lines};
    /// /// Counts the first letters of lines.
    /// fn initials<'s>(lines: Lines<'s>) -> Counts<'s> {
    ///     lines.keys(|line, emit| line.chunks(1).take(1).for_each(emit)).per_epoch().count()
    /// }
    /// ```
    pub fn keys<F>(self, keys: F) -> Words<'s>
    where
        F: Fn(&[u8], &mut dyn FnMut(&[u8])) + 'static,
    {
        Words { lines: self, item: CountedItem::Keys(Rc::new(keys)) }
    }
}

impl<'s> Words<'s> {
    /// Counts each epoch on its own, as Spark's `reduceByKey` does for a batch.
    ///
    /// As a collection: a word enters at its epoch and leaves at the next. Memory: the words of
    /// open epochs.
    pub fn per_epoch(self) -> Windowed<'s> {
        Windowed { words: self, over: Over::Epoch }
    }

    /// Counts all epochs from the first, as Spark's `updateStateByKey` does with a sum.
    ///
    /// As a collection: a word enters at its epoch and never leaves. Memory: every distinct word.
    pub fn running(self) -> Running<'s> {
        Running { words: self, max_keys: None }
    }

    /// Counts the epochs of a sliding window and publishes when a window ends, as Spark's
    /// `reduceByKeyAndWindow` does. A number stands for that many intervals, with a window that
    /// ends at every epoch.
    ///
    /// As a collection: a word enters at its epoch and leaves one window later. Memory: the
    /// distinct words of each epoch of the window; as a collection, twice. Epochs at which no
    /// window ends publish nothing, not even a marker. A window whose end became no epoch (the job
    /// lagged, or was not running) is not published. A window that does not fit the interval ends
    /// the job with a `Usage` error; [`Window::check`] finds it before the start.
    pub fn sliding(self, window: impl Into<Window>) -> Windowed<'s> {
        Windowed { words: self, over: Over::Window(window.into()) }
    }
}

/// Words to be counted from the first epoch on.
#[derive(Clone, Debug)]
pub struct Running<'s> {
    /// The words.
    words: Words<'s>,
    /// Most distinct words; `None` for any number.
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

    /// Returns the number of occurrences of each word since the first epoch.
    pub fn count(self) -> Counts<'s> {
        Windowed { words: self.words, over: Over::Start { max_keys: self.max_keys } }.count()
    }
}

/// Words with the epochs to count over.
#[derive(Clone, Debug)]
pub struct Windowed<'s> {
    /// The words.
    words: Words<'s>,
    /// The epochs that a count is over.
    over: Over,
}

impl<'s> Windowed<'s> {
    /// Returns the number of occurrences of each word.
    pub fn count(self) -> Counts<'s> {
        let Words { lines: Lines { blocks, ticks, context }, item } = self.words;
        let runs = count_words(blocks, item, Rc::clone(&context));
        Counts { runs, ticks, context, over: self.over }
    }
}
