"""The pages outside the administration, over HTTP from the running product."""

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from django.template.loader import render_to_string

from gateway_site.middleware import _POLICY
from teams.models import Department, Member, Role
from tests.factories import make_team, unique
from tests.people import PASSWORD, Account, make_account, make_admin, make_person, make_team_member
from tests.processes import Product


@pytest.fixture
def visitor(product: Product) -> Iterator[httpx.Client]:
    """A browser's cookies without a browser."""
    with httpx.Client(base_url=product.url) as client:
        yield client


def sign_in(
    visitor: httpx.Client, account: Account, password: str = PASSWORD, to: str = ""
) -> httpx.Response:
    visitor.get("/sign-in/")
    form = {"username": account.username, "password": password, "next": to}
    return post(visitor, "/sign-in/", form)


def post(visitor: httpx.Client, path: str, form: dict[str, str]) -> httpx.Response:
    token = visitor.cookies.get("csrftoken", "")
    return visitor.post(
        path, data={**form, "csrfmiddlewaretoken": token}, headers={"Origin": str(visitor.base_url)}
    )


def words(response: httpx.Response) -> str:
    """The text of a page, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.text).split())


def test_the_landing_page_tells_a_visitor_what_this_is_and_where_to_go(visitor: httpx.Client) -> None:
    page = visitor.get("/")
    assert page.status_code == 200
    assert f"{visitor.base_url}/v1" in page.text
    assert "YOUR_KEY" in page.text
    for place in ("/sign-in/", "/admin/", "/readyz"):
        assert f'href="{place}"' in page.text
        assert visitor.get(place, follow_redirects=True).status_code == 200
    assert page.headers["content-security-policy"] == _POLICY
    assert "no-store" in page.headers["cache-control"]


def test_no_page_has_inline_script_or_style(visitor: httpx.Client) -> None:
    for path in ("/", "/sign-in/", "/nothing", "/admin/login/"):
        page = visitor.get(path).text
        assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=|javascript:", page), path


def test_a_member_reads_where_the_role_holds_and_is_promised_nothing(visitor: httpx.Client) -> None:
    team = make_team()
    account = make_team_member(team)
    assert sign_in(visitor, account).headers["location"] == "/"
    page = visitor.get("/")
    assert f"Signed in as {account.username}" in words(page)
    assert f"Team member of the team {team.slug}" in words(page)
    assert "There are no pages for teams and departments yet" in words(page)
    assert 'href="/admin/"' not in page.text


def test_each_role_reads_its_own_words(visitor: httpx.Client) -> None:
    account = make_account()
    department = Department.objects.create(slug=unique("department"), name="A department")
    sign_in(visitor, account)
    assert "You have no role here yet" in words(visitor.get("/"))
    Member.objects.create(user=account.user, role=Role.DEPARTMENT_MANAGER, department=department)
    Member.objects.create(user=account.user, role=Role.FINANCE)
    page = words(visitor.get("/"))
    assert f"Department manager of the department {department.slug}" in page
    assert "Finance of the whole gateway" in page
    assert "Your work is in the administration" in page


@pytest.mark.parametrize("make", [make_admin, lambda: make_person(Role.FINANCE)], ids=["admin", "finance"])
def test_who_may_use_the_administration_is_led_there(
    visitor: httpx.Client, make: Callable[[], Account]
) -> None:
    sign_in(visitor, make())
    assert 'href="/admin/"' in visitor.get("/").text
    assert visitor.get("/admin/").status_code == 200


def test_a_wrong_password_is_refused_with_one_message_for_all(visitor: httpx.Client) -> None:
    account = make_account()
    wrong = sign_in(visitor, account, "wrong")
    unknown = sign_in(visitor, Account(account.user, unique("nobody")), "wrong")
    assert wrong.status_code == unknown.status_code == 200
    for page in (wrong, unknown):
        assert "Please enter a correct username and password" in words(page)
    assert "sessionid" not in visitor.cookies


def test_signing_in_leads_to_no_other_site(visitor: httpx.Client) -> None:
    response = sign_in(visitor, make_account(), to="https://elsewhere.example/")
    assert (response.status_code, response.headers["location"]) == (302, "/")


def test_signing_out_needs_a_post_with_a_token_and_ends_the_session(visitor: httpx.Client) -> None:
    sign_in(visitor, make_account())
    assert visitor.get("/sign-out/").status_code == 405
    refused = visitor.post("/sign-out/")
    assert (refused.status_code, "This form has expired" in refused.text) == (403, True)
    assert "Signed in as" in words(visitor.get("/"))
    assert post(visitor, "/sign-out/", {}).headers["location"] == "/"
    assert "Signed in as" not in words(visitor.get("/"))


def test_the_session_cookie_is_for_this_site_only(visitor: httpx.Client) -> None:
    cookie = sign_in(visitor, make_account()).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_an_unknown_page_and_an_unknown_host_are_answered_in_the_same_design(visitor: httpx.Client) -> None:
    missing = visitor.get("/nothing/<script>alert(1)</script>")
    assert (missing.status_code, "There is no such page" in missing.text) == (404, True)
    assert "alert(1)" not in missing.text
    stranger = visitor.get("/", headers={"Host": "elsewhere.example"})
    assert (stranger.status_code, "makes no sense here" in stranger.text) == (400, True)
    assert "elsewhere" not in stranger.text


@pytest.mark.parametrize("page", ["400", "403", "403_csrf", "404", "500"])
def test_error_pages_need_neither_a_request_nor_a_database(page: str) -> None:
    text = render_to_string(f"{page}.html")
    assert page[:3] in text
    assert "Traceback" not in text
    assert 'href="/"' in text
