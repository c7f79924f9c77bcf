//! What a template may say, and what comes of it.

use jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;
use secrecy::SecretString;

use super::*;
use crate::grant::Account;

const LIMIT: usize = 1024;

/// Renders with a token of a user, or of an app.
fn rendered(source: &str, app_only: bool) -> Option<String> {
    let secret = SecretString::from("eyJ.at");
    let account = Account {
        object_id: "oid-1".to_owned(),
        tenant_id: None,
        guest_in: None,
        username: Some("svc@x".into()),
    };
    let scopes = ["Mail.Read", "https://graph.microsoft.com/User.Read"].map(str::to_owned);
    let token = TokenView {
        access_token: &secret,
        refresh_token: None,
        token_type: "Bearer",
        issued_at: Timestamp::constant(1_893_452_400, 0),
        expires_at: Timestamp::constant(1_893_456_000, 900_000_000),
        granted_scopes: &scopes,
        client_id: "client",
        tenant_id: "tenant",
        account: Some(&account).filter(|_| !app_only),
        environment: "login.microsoftonline.com",
        app_only,
    };
    let bytes = render(source, &token, LIMIT).unwrap_or_else(|error| panic!("{source}: {error}"));
    bytes.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[rstest]
#[case::environment("MSGRAPH_TOKEN={{ access_token }}\n", "MSGRAPH_TOKEN=eyJ.at\n")]
#[case::nothing_of_ours("plain {# said to nobody #}text\n\n", "plain text\n\n")]
#[case::type_and_times(
    "{{ token_type }} {{ expires_at }} {{ expires_on }}",
    "Bearer 2030-01-01T00:00:00Z 1893456000"
)]
#[case::who("{{ tenant }} {{ client_id }} {{ account_id }}", "tenant client oid-1")]
#[case::scopes_as_oauth_writes_them("{{ scopes }}", "Mail.Read https://graph.microsoft.com/User.Read")]
#[case::scopes_as_json("{{ scopes | json }}", r#"["Mail.Read","https://graph.microsoft.com/User.Read"]"#)]
#[case::each_scope(
    "{% for s in scopes %}{{ loop.index }}={{ s }}{% if not loop.last %},{% endif %}{% endfor %}",
    "1=Mail.Read,2=https://graph.microsoft.com/User.Read"
)]
#[case::json(
    r#"{"t": {{ access_token|json }}, "n": {{ expires_on|json }}}"#,
    r#"{"t": "eyJ.at", "n": 1893456000}"#
)]
#[case::json_of_a_text("{{ 'a\"<b>&' | json }}", r#""a\"<b>&""#)]
#[case::nothing_is_escaped("{{ '<&>' }}", "<&>")]
#[case::choice("{{ 'yes' if 'Mail.Read' in scopes and expires_on > 5 else 'no' }}", "yes")]
#[case::chained("{% if 1 < expires_on <= 2000000000 %}in{% else %}out{% endif %}", "in")]
#[case::space_control("a  {%- if account_id -%}  b  {%- endif -%}  c", "abc")]
#[case::raw("{% raw %}{{ nothing }}{% endraw %}", "{{ nothing }}")]
fn a_template_is_filled_in(#[case] source: &str, #[case] text: &str) {
    check(source).unwrap();
    assert_eq!(rendered(source, false).unwrap(), text);
}

#[test]
fn an_app_has_an_empty_account() {
    let source = "[{{ account_id }}]{% if account_id %}user{% else %}app{% endif %}";
    check(source).unwrap();
    assert_eq!(rendered(source, true).unwrap(), "[]app");
}

#[rstest]
#[case::name("a\nb {{ acces_token }}", 2, Some(6), "unknown name acces_token; there are access_token,")]
#[case::name_in_a_branch("{% if false %}{{ nope }}{% endif %}", 1, Some(18), "unknown name nope")]
#[case::name_in_an_else("{% if true %}{% else %}{{ nope }}{% endif %}", 1, Some(27), "unknown name nope")]
#[case::refresh_token("{{ refresh_token }}", 1, Some(4), "unknown name refresh_token")]
#[case::loop_name_outside("{% for s in scopes %}{% endfor %}{{ s }}", 1, Some(37), "unknown name s")]
#[case::loop_name_in_else(
    "{% for s in scopes %}{% else %}{{ s }}{% endfor %}",
    1,
    Some(35),
    "unknown name s"
)]
#[case::loop_outside("{{ loop.last }}", 1, Some(4), "has no place here")]
#[case::filter("{{ access_token | upper }}", 1, Some(4), "unknown filter upper; there is json")]
#[case::filter_with_arguments("{{ scopes | json(2) }}", 1, Some(4), "unknown filter json")]
#[case::json_of_json("{{ tenant|json|json }}", 1, Some(4), "json takes a name or a text")]
#[case::attribute("{{ access_token.secret }}", 1, Some(4), "has no place here")]
#[case::item("{{ scopes[0] }}", 1, Some(4), "has no place here")]
#[case::call("{{ range(9) }}", 1, Some(4), "a call like this has no place here")]
#[case::test("{{ account_id is defined }}", 1, Some(4), "has no place here")]
#[case::list("{{ [1] }}", 1, Some(4), "has no place here")]
#[case::minus("{{ -expires_on }}", 1, Some(4), "has no place here")]
#[case::times("{{ 'a' * expires_on }}", 1, Some(4), "neither counts nor joins")]
#[case::plus("{{ expires_on + 1 }}", 1, Some(4), "neither counts nor joins")]
#[case::joined("{{ tenant ~ tenant }}", 1, Some(4), "neither counts nor joins")]
#[case::no_else("{{ tenant if account_id }}", 1, Some(4), "an if here needs an else")]
#[case::assignment("{% set a = tenant %}", 1, Some(4), "set has no place here")]
#[case::with("{% with a = tenant %}{% endwith %}", 1, Some(4), "with has no place here")]
#[case::block_filter("{% filter json %}{% endfilter %}", 1, Some(4), "filter has no place here")]
#[case::autoescape("{% autoescape true %}{% endautoescape %}", 1, Some(4), "autoescape has no place here")]
#[case::loop_in_its_own_filter(
    "{% for s in scopes if loop.first %}{% endfor %}",
    1,
    Some(23),
    "has no place here"
)]
#[case::for_over_a_text("{% for c in access_token %}{% endfor %}", 1, Some(13), "for goes over scopes")]
#[case::for_over_what_hides_scopes(
    "{% for scopes in scopes %}{% for s in scopes %}{% endfor %}{% endfor %}",
    1,
    Some(39),
    "for goes over scopes"
)]
#[case::pairs("{% for a, b in scopes %}{% endfor %}", 1, Some(4), "for takes one name")]
#[case::in_a_number("{{ 1 in expires_on }}", 1, Some(9), "in looks into scopes")]
#[case::unclosed("a\n{{ tenant", 2, None, "it cannot be parsed")]
#[case::unended("{% if tenant %}", 1, None, "it cannot be parsed")]
#[case::include("{% include 'a' %}", 1, None, "it cannot be parsed")]
#[case::macro_("{% macro a() %}{% endmacro %}", 1, None, "it cannot be parsed")]
fn what_a_template_may_not_say_is_refused_with_its_place(
    #[case] source: &str,
    #[case] line: usize,
    #[case] column: Option<usize>,
    #[case] problem: &str,
) {
    let error = check(source).unwrap_err();
    assert_eq!((error.line, error.column), (Some(line), column), "{error}");
    assert!(error.problem.contains(problem), "{error}");
}

/// On a stack as small as the operator's threads have.
#[rstest]
#[case::minus("{{ ", "-", "1 }}")]
#[case::not("{{ ", "not ", "1 }}")]
#[case::json("{{ tenant", "|json", " }}")]
#[case::or("{{ tenant", " or 1", " }}")]
#[case::sum("{{ 1", "+1", " }}")]
#[case::attributes("{{ tenant", ".a", " }}")]
#[case::choices("{{ ", "1 if 1 else ", "1 }}")]
#[case::parentheses("{{ ", "(", "1 }}")]
#[case::lists("{{ ", "[", "1 }}")]
#[case::comparisons("{{ 1", "<1", " }}")]
#[case::elif("{% if 1 %}", "{% elif 1 %}", "{% endif %}")]
#[case::if_in_if("", "{% if 1 %}", "")]
#[case::loops("", "{% for s in scopes %}", "")]
#[case::text("{{ '", "a", "' }}")]
fn a_deep_template_is_no_danger_to_the_stack(#[case] begin: &str, #[case] again: &str, #[case] end: &str) {
    let deepest = |levels: usize| [begin, &again.repeat(levels), end].concat();
    let whole = deepest((16_384 - begin.len() - end.len()) / again.len());
    let levels = [whole, deepest(90), deepest(45), deepest(30), deepest(20)];
    let small = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    let checked = small.spawn(move || {
        for source in levels {
            if check(&source).is_ok() {
                rendered(&source, false);
            }
        }
    });
    checked.unwrap().join().unwrap();
}

#[test]
fn what_is_quoted_of_a_template_is_bounded() {
    for source in
        [format!("{{{{ {} }}}}", "n".repeat(9000)), format!("{{{{ tenant | {} }}}}", "n".repeat(9000))]
    {
        assert!(check(&source).unwrap_err().to_string().len() < 400);
    }
}

#[test]
fn output_ends_at_its_limit() {
    let exact = "x".repeat(LIMIT);
    assert_eq!(rendered(&exact, false), Some(exact.clone()));
    assert_eq!(rendered(&format!("{exact}y"), false), None);
}

#[test]
fn loops_in_loops_burn_fuel_and_end() {
    let deep = 18;
    let source = format!("{}{}", "{% for s in scopes %}".repeat(deep), "{% endfor %}".repeat(deep));
    check(&source).unwrap();
    let scopes: Vec<String> = (0..64).map(|n| n.to_string()).collect();
    let secret = SecretString::from("eyJ.at");
    let token = TokenView {
        access_token: &secret,
        refresh_token: None,
        token_type: "Bearer",
        issued_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::UNIX_EPOCH,
        granted_scopes: &scopes,
        client_id: "c",
        tenant_id: "t",
        account: None,
        environment: "e",
        app_only: true,
    };
    let error = render(&source, &token, LIMIT).unwrap_err();
    assert!(error.problem.contains("too long to render"), "{error}");
}

/// Pieces of which most are Jinja, so that many of them together parse.
fn templates() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "{{ access_token }}",
        "{{ scopes }}",
        "{{ scopes|json }}",
        "{{ nope }}",
        "{% if account_id %}",
        "{% else %}",
        "{% elif 'a' in scopes %}",
        "{% endif %}",
        "{% for s in scopes %}",
        "{{ s }}",
        "{{ loop.index0 }}",
        "{% endfor %}",
        "{% for s in scopes if loop.first %}",
        "{{ a * 2 }}",
        "{{ expires_on < 'x' }}",
        "{{ not tenant or (client_id == 5) }}",
        "{{ 'x' if s else scopes }}",
        "{#",
        "#}",
        "{{",
        "}}",
        "{%",
        "%}",
        "\n",
        "é",
        "{% raw %}",
        "{% endraw %}",
        "{{ tenant is x }}",
        "{{ [tenant] }}",
        "{% for s in scopes if s != 'a' %}",
        "{{ (tenant, 1)|json }}",
        "{{ none|json }}",
        "{{ 1 < expires_on in scopes }}",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// The promise: nothing that is got from the provider is in vain for want of a template.
    #[test]
    fn what_passes_the_check_can_be_rendered(source in templates(), app_only: bool) {
        if check(&source).is_ok() {
            rendered(&source, app_only);
        }
    }

    #[test]
    fn no_text_makes_the_check_panic(source in ".{0,200}") {
        let _ = check(&source);
    }
}
