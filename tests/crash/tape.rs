//! The tape on which every IO call is noted, and what is to happen at one of them.

/// Where in a call the process dies, or what goes wrong with the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The process dies before it was done.
    Before,
    /// The process dies when it was done and not yet answered.
    Done,
    /// The process dies after its answer, before it does anything else.
    After,
    /// The process lives; the call is not done, and the server says that it is overloaded.
    Refused,
    /// The process lives; the call is done, and the answer is lost.
    AnswerLost,
}

/// A call by its number on the tape, and what happens there.
pub type Point = (usize, Moment);

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Refused,
    AnswerLost,
}

/// The calls, and what is to happen at one of them.
#[derive(Debug, Default)]
pub struct Tape {
    pub calls: Vec<String>,
    recording: bool,
    point: Option<Point>,
    /// Whether the process is to die before it does anything else.
    pub dying: bool,
    /// Counts whatever moves.
    pub moves: u64,
    /// Requests that the provider leaves without an answer.
    pub held: usize,
}

impl Tape {
    /// Something moved.
    pub fn moved(&mut self) {
        self.moves += 1;
    }

    /// Notes calls from now on.
    pub fn record(&mut self) {
        self.recording = true;
    }

    pub fn arm(&mut self, point: Point) {
        self.point = Some(point);
    }

    /// Starts anew.
    pub fn arm_again(&mut self, point: Point) {
        self.calls.clear();
        self.record();
        self.arm(point);
    }

    /// Notes a call. Returns what is to happen at it.
    pub fn begin(&mut self, what: String) -> Option<Moment> {
        self.moved();
        if self.dying {
            return Some(Moment::Before);
        }
        if !self.recording {
            return None;
        }
        self.calls.push(what);
        let number = self.calls.len() - 1;
        let (_, moment) = self.point.take_if(|(at, _)| *at == number)?;
        // What the next process does is not on the tape.
        self.recording = matches!(moment, Moment::Refused | Moment::AnswerLost);
        Some(moment)
    }
}
