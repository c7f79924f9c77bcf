//! The identity provider: Entra's lenient rotation or a strict one, and a journal of what was sent to it. No IO here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// What becomes of a refresh token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It goes on working, as on Entra.
    Lenient,
    /// It worked once; a replay revokes all that stem from the same sign-in.
    Strict,
}

/// From when a device code is issued until it is entered: between the first poll and the second.
const USER_TAKES: SignedDuration = SignedDuration::from_secs(7);

/// How it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Up,
    /// Connections break.
    Broken,
    /// Nothing is ever answered.
    Silent,
    /// Whatever is asked, this is answered.
    Canned(Canned),
}

/// Status, Retry-After and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canned {
    pub status: u16,
    pub retry_after: Option<&'static str>,
    /// This over and over, as many times.
    pub body: (&'static str, usize),
}

#[derive(Debug, Clone)]
struct RefreshToken {
    family: u32,
    spent: bool,
    /// Those that were issued for it.
    children: Vec<String>,
}

/// One request that was processed.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "all of it is shown where a test fails")]
pub struct Exchange {
    pub at: Timestamp,
    sent: Option<String>,
    issued: bool,
}

#[derive(Debug)]
pub struct Idp {
    pub rotation: Rotation,
    pub reach: Reach,
    pub life: Duration,
    /// The codes that were issued: when, and whether they were used.
    device_codes: HashMap<String, (Timestamp, bool)>,
    /// Every request, processed or not.
    pub attempts: Vec<Timestamp>,
    pub journal: Vec<Exchange>,
    refresh_tokens: HashMap<String, RefreshToken>,
    access_tokens: HashMap<String, Timestamp>,
    /// Whether Graph refuses each token, though it is good.
    pub refuses: bool,
    /// Tokens that Graph refuses though they have not run out.
    refused: HashSet<String>,
    /// What Graph was asked, when, and with which status it answered.
    pub trials: Vec<(Timestamp, String, u16)>,
    revoked: Vec<u32>,
    /// Refresh tokens of another client.
    foreign: HashSet<String>,
    families: u32,
    tokens: u32,
}

impl Idp {
    pub fn new(rotation: Rotation) -> Self {
        Self {
            rotation,
            reach: Reach::Up,
            life: Duration::from_hours(1),
            device_codes: HashMap::new(),
            attempts: Vec::new(),
            journal: Vec::new(),
            refresh_tokens: HashMap::new(),
            access_tokens: HashMap::new(),
            refuses: false,
            refused: HashSet::new(),
            trials: Vec::new(),
            revoked: Vec::new(),
            foreign: HashSet::new(),
            families: 0,
            tokens: 0,
        }
    }

    /// A user signs in elsewhere: the refresh token that this leaves behind.
    pub fn sign_in(&mut self) -> String {
        self.families += 1;
        self.mint(self.families)
    }

    /// A user signs in to another client.
    pub fn sign_in_to_another_client(&mut self) -> String {
        let token = format!("foreign-rt-{}", self.foreign.len() + 1);
        self.foreign.insert(token.clone());
        token
    }

    /// Whether a refresh token would be taken now.
    pub fn accepts(&self, token: &str) -> bool {
        self.refresh_tokens.get(token).is_some_and(|t| {
            let reusable = !t.spent || self.rotation == Rotation::Lenient;
            reusable && !self.revoked.contains(&t.family)
        })
    }

    /// When an access token that was issued here expires.
    pub fn expiry(&self, access_token: &str) -> Option<Timestamp> {
        self.access_tokens.get(access_token).copied()
    }

    /// Graph takes none of the access tokens any more that were issued so far.
    pub fn revoke_access_tokens(&mut self) {
        self.refused.extend(self.access_tokens.keys().cloned());
    }

    /// Whether Graph takes an access token.
    pub fn takes(&self, access_token: &str, now: Timestamp) -> bool {
        let good = self.expiry(access_token).is_some_and(|expiry| expiry > now);
        good && !self.refuses && !self.refused.contains(access_token)
    }

    /// Graph is asked for something.
    pub fn graph(&mut self, access_token: &str, now: Timestamp) -> u16 {
        let status = if self.takes(access_token, now) { 200 } else { 401 };
        self.trials.push((now, access_token.to_owned(), status));
        status
    }

    /// The refresh tokens that came of one by one or more exchanges.
    pub fn descendants(&self, token: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut next = Some(token);
        let mut looked_at = 0;
        while let Some(token) = next {
            let children = self.refresh_tokens.get(token).into_iter().flat_map(|t| &t.children);
            found.extend(children.map(String::as_str));
            next = found.get(looked_at).copied();
            looked_at += 1;
        }
        found
    }

    /// Issues a device code. A user enters it after a while.
    pub fn authorize_device(&mut self, now: Timestamp) -> (u16, Value) {
        let code = format!("dc-{}", self.device_codes.len() + 1);
        self.device_codes.insert(code.clone(), (now, false));
        let user_code = format!("USER-{}", self.device_codes.len());
        let uri = "https://idp.example/device";
        let body =
            json!({"device_code": code, "user_code": user_code, "verification_uri": uri, "expires_in": 900});
        (200, body)
    }

    /// Processes one poll: a code is good for one token.
    fn poll(
        &mut self,
        form: &HashMap<String, String>,
        now: Timestamp,
    ) -> Result<Option<String>, &'static str> {
        let code = form.get("device_code").and_then(|code| self.device_codes.get_mut(code));
        let (issued, used) = code.filter(|(_, used)| !used).ok_or("bad_verification_code")?;
        if now.duration_since(*issued) < USER_TAKES {
            return Err("authorization_pending");
        }
        *used = true;
        Ok(Some(self.sign_in()))
    }

    /// Processes one request.
    pub fn redeem(&mut self, form: &HashMap<String, String>, now: Timestamp) -> (u16, Value) {
        let sent = form.get("refresh_token").cloned();
        let answer = match form.get("grant_type").map(String::as_str) {
            Some("client_credentials")
                if form.contains_key("client_secret") || form.contains_key("client_assertion") =>
            {
                Some(None)
            }
            Some(grant) if grant.ends_with("device_code") => match self.poll(form, now) {
                Ok(token) => Some(token),
                Err(error) => return (400, json!({"error": error})),
            },
            Some("refresh_token") => sent.as_deref().and_then(|token| self.rotate(token)).map(Some),
            _ => None,
        };
        let foreign = sent.as_ref().is_some_and(|sent| self.foreign.contains(sent));
        self.journal.push(Exchange { at: now, sent, issued: answer.is_some() });
        let Some(refresh_token) = answer else {
            let mut body = json!({"error": "invalid_grant", "error_codes": [70_000]});
            if foreign {
                body["suberror"] = json!("client_mismatch");
            }
            return (400, body);
        };
        self.tokens += 1;
        let access_token = format!("at-{}", self.tokens);
        let life = SignedDuration::try_from(self.life).expect("a token's life is short");
        self.access_tokens.insert(access_token.clone(), now + life);
        let mut body =
            json!({"token_type": "Bearer", "expires_in": self.life.as_secs(), "access_token": access_token});
        if let Some(refresh_token) = refresh_token {
            body["refresh_token"] = json!(refresh_token);
            body["client_info"] = json!(URL_SAFE_NO_PAD.encode(r#"{"uid":"the-user","utid":"the-tenant"}"#));
        }
        (200, body)
    }

    fn rotate(&mut self, token: &str) -> Option<String> {
        let strict = self.rotation == Rotation::Strict;
        let RefreshToken { family, spent, .. } = self.refresh_tokens.get(token)?.clone();
        if strict && spent {
            self.revoked.push(family);
        }
        if !self.accepts(token) {
            return None;
        }
        let child = self.mint(family);
        let parent = self.refresh_tokens.get_mut(token)?;
        parent.spent = true;
        parent.children.push(child.clone());
        Some(child)
    }

    fn mint(&mut self, family: u32) -> String {
        self.tokens += 1;
        let token = format!("rt-{}", self.tokens);
        self.refresh_tokens
            .insert(token.clone(), RefreshToken { family, spent: false, children: Vec::new() });
        token
    }
}
