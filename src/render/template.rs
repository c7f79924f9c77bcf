//! Templates of the target, in Jinja's syntax. [`check`] reads the whole syntax tree before an exchange: whatever passes it can
//! be rendered whatever the token and whichever branches are taken, so that no token is got in vain. What it lets through is a
//! small language on purpose: no assignment, no arithmetic, no calls, and loops over the scopes alone.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use minijinja::machinery::ast::{self, Expr, Stmt};
use minijinja::machinery::{Span, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};
use secrecy::ExposeSecret as _;

use super::{TokenView, rfc3339};

#[cfg(test)]
mod tests;

/// What a template can name.
const VARIABLES: [&str; 8] =
    ["access_token", "token_type", "expires_at", "expires_on", "scopes", "tenant", "client_id", "account_id"];
/// What can be asked of a loop.
const LOOP_ATTRIBUTES: [&str; 5] = ["first", "last", "index", "index0", "length"];
/// Instructions of the template engine: some thousand turns of a loop, more than any file needs.
const FUEL: u64 = 20_000;
/// Between `{{` and `}}`, or `{%` and `%}`. The engine bounds how deep parentheses and blocks nest, and not the depth of `- - -1`,
/// `a|b|c`, `a or b or c` and the like: without a bound of ours a template could exhaust the stack.
const MAX_TOKENS: usize = 100;
/// Of one template: each is nested in the one before.
const MAX_ELIFS: usize = 32;
/// What is quoted of a template in an error.
const MAX_QUOTE: usize = 64;

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column, from 1.
    pub column: Option<usize>,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "at line {line}, column {column}: ")?,
            (Some(line), None) => write!(f, "at line {line}: ")?,
            (None, _) => {}
        }
        f.write_str(&self.problem)
    }
}

impl TemplateError {
    fn at(span: Span, problem: String) -> Self {
        Self { line: Some(span.start_line.into()), column: Some(usize::from(span.start_col) + 1), problem }
    }

    /// What the engine says. Its own words are told only of what it could not parse: other details may quote values.
    fn of(error: &Error) -> Self {
        let detail = error.detail().map(quoted);
        let problem = match error.kind() {
            ErrorKind::SyntaxError => format!("it cannot be parsed: {}", detail.unwrap_or_default()),
            ErrorKind::OutOfFuel => "it takes too long to render; write fewer loops".to_owned(),
            kind => format!("it cannot be rendered ({kind})"),
        };
        Self { line: error.line(), column: None, problem }
    }
}

/// The beginning of something that a template's author wrote.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(MAX_QUOTE).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

/// Whether a template can be rendered whatever the token.
pub fn check(source: &str) -> Result<(), TemplateError> {
    bound_depth(source)?;
    let tree = parse(source, "template", syntax()).map_err(|error| TemplateError::of(&error))?;
    Checker { names: Vec::new(), loops: 0 }.statements(std::slice::from_ref(&tree))
}

fn bound_depth(source: &str) -> Result<(), TemplateError> {
    let (mut within, mut elifs) = (0, 0);
    for token in tokenize(source, false, syntax()) {
        let (token, span) = token.map_err(|error| TemplateError::of(&error))?;
        match token {
            Token::VariableStart | Token::BlockStart | Token::TemplateData(_) => within = 0,
            Token::Ident("elif") if within == 0 => elifs += 1,
            _ => within += 1,
        }
        if within > MAX_TOKENS {
            return Err(TemplateError::at(
                span,
                "this is too long for one tag; write less between the braces".to_owned(),
            ));
        }
        if elifs > MAX_ELIFS {
            return Err(TemplateError::at(span, format!("there are more than {MAX_ELIFS} elif")));
        }
    }
    Ok(())
}

/// The bytes of a checked template; `None`: there are more than `limit`.
pub fn render(source: &str, token: &TokenView<'_>, limit: usize) -> Result<Option<Vec<u8>>, TemplateError> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(syntax());
    environment.add_filter("json", to_json);
    let template = environment.template_from_str(source).map_err(|error| TemplateError::of(&error))?;
    let values = context! {
        access_token => token.access_token.expose_secret(),
        token_type => token.token_type,
        expires_at => rfc3339(token.expires_at),
        expires_on => token.expires_at.as_second(),
        scopes => Value::from_object(Scopes(token.granted_scopes.to_vec())),
        tenant => token.tenant_id,
        client_id => token.client_id,
        account_id => token.account.map_or("", |account| account.object_id.as_str()),
    };
    let mut out = Bounded { bytes: Vec::new(), limit, overrun: false };
    match template.render_captured_to(values, &mut out) {
        _ if out.overrun => Ok(None),
        Ok(_) => Ok(Some(out.bytes)),
        Err(error) => Err(TemplateError::of(&error)),
    }
}

fn syntax() -> SyntaxConfig {
    // A file keeps its last newline.
    let built = SyntaxConfig::builder().keep_trailing_newline(true).build();
    built.expect("the delimiters are Jinja's own")
}

/// Unlike the engine's own `tojson` it does not write `<` as `\u003c`: this is no HTML.
fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| ErrorKind::BadSerialization.into())
}

/// Scopes: written out they are as OAuth 2.0 writes them (RFC 6749, 3.3), with spaces between; as JSON they are a list.
#[derive(Debug)]
struct Scopes(Vec<String>);

impl Object for Scopes {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).map(Value::from)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Output up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    overrun: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.overrun = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Walks a syntax tree, whose depth is bounded.
struct Checker<'a> {
    /// What the loops around call their items.
    names: Vec<&'a str>,
    /// In the bodies of how many loops.
    loops: usize,
}

impl<'a> Checker<'a> {
    fn statements(&mut self, statements: &[Stmt<'a>]) -> Result<(), TemplateError> {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &Stmt<'a>) -> Result<(), TemplateError> {
        let refused = |span, what: &str| {
            Err(TemplateError::at(
                span,
                format!("{what} has no place here; there are {{{{ … }}}}, if, and for over scopes"),
            ))
        };
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(_) => Ok(()),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::IfCond(condition) => {
                self.expression(&condition.expr)?;
                self.statements(&condition.true_body)?;
                self.statements(&condition.false_body)
            }
            Stmt::ForLoop(each) => self.for_loop(each, each.span()),
            Stmt::WithBlock(at) => refused(at.span(), "with"),
            Stmt::Set(at) => refused(at.span(), "set"),
            Stmt::SetBlock(at) => refused(at.span(), "set"),
            Stmt::AutoEscape(at) => refused(at.span(), "autoescape"),
            Stmt::FilterBlock(at) => refused(at.span(), "filter"),
            Stmt::Do(at) => refused(at.span(), "do"),
        }
    }

    fn for_loop(&mut self, each: &ast::ForLoop<'a>, span: Span) -> Result<(), TemplateError> {
        let over_scopes =
            matches!(&each.iter, Expr::Var(var) if var.id == "scopes" && !self.names.contains(&var.id));
        let Expr::Var(target) = &each.target else {
            return Err(TemplateError::at(span, "for takes one name: for scope in scopes".to_owned()));
        };
        if !over_scopes || each.recursive {
            return Err(TemplateError::at(
                each.iter.span(),
                "for goes over scopes, and nothing else".to_owned(),
            ));
        }
        self.names.push(target.id);
        // It is asked before there is a loop: `loop` in it is that of a loop around.
        each.filter_expr.iter().try_for_each(|filter| self.expression(filter))?;
        self.loops += 1;
        self.statements(&each.body)?;
        self.loops -= 1;
        self.names.pop();
        self.statements(&each.else_body)
    }

    fn expression(&self, expression: &Expr<'a>) -> Result<(), TemplateError> {
        match expression {
            Expr::Const(_) => Ok(()),
            Expr::Var(var) if self.knows(var.id) => Ok(()),
            Expr::Var(var) => Err(TemplateError::at(
                var.span(),
                format!("unknown name {}; there are {}", quoted(var.id), VARIABLES.join(", ")),
            )),
            Expr::UnaryOp(not) if matches!(not.op, ast::UnaryOpKind::Not) => self.expression(&not.expr),
            Expr::BinOp(operation) => self.operation(operation, operation.span()),
            Expr::Compare(chain) => {
                self.expression(&chain.expr)?;
                chain.ops.iter().try_for_each(|step| match step.op {
                    ast::CompareOpKind::In | ast::CompareOpKind::NotIn => self.in_scopes(&step.expr),
                    _ => self.expression(&step.expr),
                })
            }
            Expr::IfExpr(choice) => {
                let Some(otherwise) = &choice.false_expr else {
                    return Err(TemplateError::at(choice.span(), "an if here needs an else".to_owned()));
                };
                [&choice.test_expr, &choice.true_expr, otherwise]
                    .into_iter()
                    .try_for_each(|part| self.expression(part))
            }
            Expr::Filter(filter) => self.filter(filter, filter.span()),
            Expr::GetAttr(get) if self.is_loop_attribute(get) => Ok(()),
            other => Err(TemplateError::at(
                other.span(),
                format!(
                    "a {} like this has no place here; there are names, texts, comparisons, and the filter json",
                    other.description()
                ),
            )),
        }
    }

    fn knows(&self, name: &str) -> bool {
        VARIABLES.contains(&name) || self.names.contains(&name)
    }

    fn is_loop_attribute(&self, get: &ast::GetAttr<'a>) -> bool {
        let of_loop = matches!(&get.expr, Expr::Var(var) if var.id == "loop");
        of_loop && self.loops > 0 && LOOP_ATTRIBUTES.contains(&get.name)
    }

    fn filter(&self, filter: &ast::Filter<'a>, span: Span) -> Result<(), TemplateError> {
        match &filter.expr {
            // JSON of JSON doubles its escapes with each turn.
            Some(of @ (Expr::Var(_) | Expr::Const(_))) if filter.name == "json" && filter.args.is_empty() => {
                self.expression(of)
            }
            Some(_) if filter.name == "json" && filter.args.is_empty() => {
                Err(TemplateError::at(span, "json takes a name or a text, and nothing else".to_owned()))
            }
            _ => Err(TemplateError::at(
                span,
                format!("unknown filter {}; there is json, without arguments", quoted(filter.name)),
            )),
        }
    }

    fn operation(&self, operation: &ast::BinOp<'a>, span: Span) -> Result<(), TemplateError> {
        use ast::BinOpKind as Op;
        match operation.op {
            Op::Eq | Op::Ne | Op::Lt | Op::Lte | Op::Gt | Op::Gte | Op::ScAnd | Op::ScOr => {
                self.expression(&operation.left)?;
                self.expression(&operation.right)
            }
            Op::In => {
                self.expression(&operation.left)?;
                self.in_scopes(&operation.right)
            }
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::FloorDiv | Op::Rem | Op::Pow | Op::Concat => {
                Err(TemplateError::at(
                    span,
                    "a template neither counts nor joins; write the parts side by side".to_owned(),
                ))
            }
        }
    }

    /// What is asked for with `in`: of a number it could not be told.
    fn in_scopes(&self, right: &Expr<'a>) -> Result<(), TemplateError> {
        match right {
            Expr::Var(var) if var.id == "scopes" && !self.names.contains(&var.id) => Ok(()),
            other => {
                Err(TemplateError::at(other.span(), "in looks into scopes, and nothing else".to_owned()))
            }
        }
    }
}
