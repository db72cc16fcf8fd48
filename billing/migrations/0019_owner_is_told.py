from django.db import migrations, models
from django.db.models import Q

OWNERS = ["department", "team", "application", "api_key"]


def one_owner(name: str) -> models.CheckConstraint:
    given = Q()
    for owner in OWNERS:
        given |= Q(**{f"{other}__isnull": other != owner for other in OWNERS})
    return models.CheckConstraint(
        condition=given,
        name=name,
        violation_error_message="Choose one owner: a department, a team, an application or an API key.",
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_usage_corrections")]

    operations = [
        migrations.AlterConstraint(model, f"{model}_one_owner", one_owner(f"{model}_one_owner"))
        for model in ("limit", "budget")
    ]
