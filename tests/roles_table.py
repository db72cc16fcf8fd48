"""Who may do what, written down once more and apart from the code, as the specification has it.

`all`: everywhere. `own`: in the own department or team. `-`: nowhere.
"""

ROLES = (
    "platform_admin",
    "security_auditor",
    "finance",
    "department_manager",
    "team_owner",
    "team_member",
    "viewer",
)

_TABLE = """
administration.enter  all  all  all  -    -    -    -
department.view       all  all  all  own  -    -    -
department.manage     all  -    -    -    -    -    -
team.view             all  all  all  own  own  own  own
team.manage           all  -    -    own  -    -    -
application.view      all  all  all  own  own  own  own
application.manage    all  -    -    own  own  -    -
member.view           all  all  all  own  own  own  own
member.manage         all  -    -    own  own  -    -
person.view           all  all  -    -    -    -    -
person.manage         all  -    -    -    -    -    -
key.view              all  all  all  own  own  own  own
key.create            all  -    -    own  own  own  -
key.change            all  -    -    own  own  -    -
key.pause             all  -    -    own  own  own  -
key.rotate            all  -    -    own  own  own  -
key.revoke            all  -    -    own  own  -    -
model.view            all  all  -    own  own  own  own
model.manage          all  -    -    -    -    -    -
grant.view            all  all  -    own  own  own  own
grant.manage          all  -    -    -    -    -    -
backend.view          all  all  -    -    -    -    -
backend.manage        all  -    -    -    -    -    -
backend.drain         all  -    -    -    -    -    -
route.view            all  all  -    -    -    -    -
route.manage          all  -    -    -    -    -    -
price.view            all  all  all  -    -    -    -
price.manage          all  -    -    -    -    -    -
limit.view            all  all  all  -    -    -    -
limit.manage          all  -    -    -    -    -    -
budget.view           all  all  all  -    -    -    -
budget.manage         all  -    -    -    -    -    -
guard.view            all  all  -    -    -    -    -
guard.manage          all  -    -    -    -    -    -
ledger.view           all  all  all  own  own  own  own
shipping.view         all  all  all  -    -    -    -
event.view            all  all  -    -    -    -    -
"""

EXPECTED: dict[tuple[str, str], str] = {
    (action, role): cell
    for action, *cells in (line.split() for line in _TABLE.strip().splitlines())
    for role, cell in zip(ROLES, cells, strict=True)
}
ACTIONS = sorted({action for action, _ in EXPECTED})
