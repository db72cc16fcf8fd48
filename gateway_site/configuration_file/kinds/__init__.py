"""The kinds of objects in the order in which they are made: each only refers to kinds before it.

A new kind is a file here and a line below; the reader, the differ, the export and the reference page follow.
"""

from gateway_site.configuration_file.kinds.backends import Backends
from gateway_site.configuration_file.kinds.base import Kind
from gateway_site.configuration_file.kinds.breaker_rules import BreakerRules
from gateway_site.configuration_file.kinds.budgets import Budgets
from gateway_site.configuration_file.kinds.content_routes import ContentRoutes
from gateway_site.configuration_file.kinds.fallbacks import Fallbacks
from gateway_site.configuration_file.kinds.guards import (
    ExternalGuards,
    GuardPolicies,
    GuardRules,
    PolicyTeams,
    Recognisers,
)
from gateway_site.configuration_file.kinds.keys import Keys
from gateway_site.configuration_file.kinds.limits import Limits
from gateway_site.configuration_file.kinds.models import Models
from gateway_site.configuration_file.kinds.organisation import Applications, Departments, Teams
from gateway_site.configuration_file.kinds.people import Members, People
from gateway_site.configuration_file.kinds.prices import Prices
from gateway_site.configuration_file.kinds.routes import Routes

KINDS: tuple[Kind, ...] = (
    Departments(),
    Teams(),
    Applications(),
    People(),
    Members(),
    Backends(),
    Models(),
    Routes(),
    BreakerRules(),
    Fallbacks(),
    ContentRoutes(),
    Recognisers(),
    ExternalGuards(),
    GuardPolicies(),
    GuardRules(),
    PolicyTeams(),
    Prices(),
    Keys(),
    Limits(),
    Budgets(),
)
